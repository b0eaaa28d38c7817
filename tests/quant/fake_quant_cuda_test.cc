// The CUDA kernels against the CPU's: the same inner functions, so the same bits; sums of a group in another order.
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "quant/fake_quant.h"

namespace roundtable {
namespace {

RoundingParameters on_gpu(const RoundingParameters& p) {
  return {p.v.cuda(), p.min_scale.cuda(), p.max_scale.cuda(), p.wmin.cuda(), p.wmax.cuda()};
}

TEST(FakeQuantCuda, EqualsTheCpu) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device on this machine";
  torch::manual_seed(1);
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
        const QuantScheme scheme{bits, 40, symmetric, true, true, 0};
        const torch::Tensor weight = torch::randn({64, 200}).to(dtype);
        RoundingParameters cpu = make_rounding_parameters(weight, scheme);
        cpu.v.uniform_(-0.5, 0.5);
        cpu.max_scale.uniform_(0.7, 1);
        RoundingParameters gpu = on_gpu(cpu);
        const torch::Tensor gradient = torch::randn({64, 200});
        torch::Tensor here = torch::empty_like(weight);
        torch::Tensor there = torch::empty_like(weight.cuda());
        fake_quantize(weight, cpu, scheme, here);
        fake_quantize(weight.cuda(), gpu, scheme, there);
        EXPECT_TRUE(torch::equal(here, there.cpu()));
        const RoundingGradients a = rounding_gradients(weight, cpu, scheme, gradient);
        const RoundingGradients b = rounding_gradients(weight.cuda(), gpu, scheme, gradient.cuda());
        EXPECT_TRUE(torch::equal(a.v, b.v.cpu()));
        EXPECT_TRUE(torch::allclose(a.min_scale, b.min_scale.cpu(), 1e-4, 1e-5));
        EXPECT_TRUE(torch::allclose(a.max_scale, b.max_scale.cpu(), 1e-4, 1e-5));
        RoundingParameters searched = make_rounding_parameters(weight, scheme);
        RoundingParameters there_too = on_gpu(searched);
        const torch::Tensor importance = torch::rand({200});
        search_scales(weight, searched, scheme, importance);
        search_scales(weight.cuda(), there_too, scheme, importance.cuda());
        // Two candidates whose errors differ by the order of a sum alone are both right.
        EXPECT_LT((searched.max_scale != there_too.max_scale.cpu()).to(torch::kFloat32).mean().item<float>(), 0.01f);
        EXPECT_TRUE(torch::equal(quantize(weight, cpu, scheme).q, quantize(weight.cuda(), gpu, scheme).q.cpu()));
        QuantizedWeight kept = quantize(weight.cuda(), gpu, scheme);
        const torch::Tensor before = kept.q.clone();
        quantize_where(torch::tensor(false).cuda(), weight.cuda(), there_too, scheme, kept);
        EXPECT_TRUE(torch::equal(kept.q, before));
        quantize_where(torch::tensor(true).cuda(), weight.cuda(), there_too, scheme, kept);
        EXPECT_TRUE(torch::equal(kept.q, quantize(weight.cuda(), there_too, scheme).q));
      }
    }
  }
}

}  // namespace
}  // namespace roundtable
