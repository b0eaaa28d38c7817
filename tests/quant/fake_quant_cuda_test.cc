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

// Where an element is not as it is on the CPU.
float share_of_others(const torch::Tensor& here, const torch::Tensor& there) {
  return (here != there.cpu()).to(torch::kFloat32).mean().item<float>();
}

void expect_equal(QuantScheme scheme, std::int64_t columns, torch::ScalarType dtype) {
  // 63 rows: the last warps have fewer groups than they have room for.
  const torch::Tensor weight = torch::randn({63, columns}).to(dtype);
  scheme = with_global_scale(scheme, {weight});
  RoundingParameters cpu = make_rounding_parameters(weight, scheme);
  cpu.v.uniform_(-0.5, 0.5);
  cpu.max_scale.uniform_(0.7, 1);
  RoundingParameters gpu = on_gpu(cpu);
  const torch::Tensor gradient = torch::randn({63, columns});
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
  const torch::Tensor importance = torch::rand({columns});
  search_scales(weight, searched, scheme, importance);
  search_scales(weight.cuda(), there_too, scheme, importance.cuda());
  // Two candidates whose errors differ by the order of a sum alone are both right.
  EXPECT_LT(share_of_others(searched.wmin, there_too.wmin), 0.01f);
  EXPECT_LT(share_of_others(searched.wmax, there_too.wmax), 0.01f);
  EXPECT_TRUE(torch::equal(quantize(weight, cpu, scheme).q, quantize(weight.cuda(), gpu, scheme).q.cpu()));
  QuantizedWeight kept = quantize(weight.cuda(), gpu, scheme);
  const torch::Tensor before = kept.q.clone();
  quantize_where(torch::tensor(false).cuda(), weight.cuda(), there_too, scheme, kept);
  EXPECT_TRUE(torch::equal(kept.q, before));
  quantize_where(torch::tensor(true).cuda(), weight.cuda(), there_too, scheme, kept);
  EXPECT_TRUE(torch::equal(kept.q, quantize(weight.cuda(), there_too, scheme).q));
  // Last, since it moves the parameters: v by its sign alone, so to the bit; a scale whose gradient is a sum near zero
  // may go the other way.
  const StepSize size{0.01f, 0.005f};
  sign_step(weight, cpu, scheme, gradient, size);
  sign_step(weight.cuda(), gpu, scheme, gradient.cuda(), size);
  EXPECT_TRUE(torch::equal(cpu.v, gpu.v.cpu()));
  EXPECT_LT(share_of_others(cpu.min_scale, gpu.min_scale), 0.01f);
  EXPECT_LT(share_of_others(cpu.max_scale, gpu.max_scale), 0.01f);
}

class FakeQuantCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device on this machine";
    torch::manual_seed(1);
  }
};

// Groups of fewer and more weights than a warp has lanes, that divide a row and that do not.
TEST_F(FakeQuantCuda, IntegersEqualTheCpus) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
        for (const std::int64_t group : {16, 32, 40, 64, 128, 200}) {
          expect_equal({bits, group, symmetric, true, true, 0}, group == 40 ? 200 : 5 * group + group / 2, dtype);
        }
      }
    }
  }
}

TEST_F(FakeQuantCuda, FloatsOf4BitsEqualTheCpus) {
  for (const auto type : {WeightType::kMxFp4, WeightType::kNvFp4}) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      QuantScheme scheme{4, type == WeightType::kMxFp4 ? 32 : 16, true, true, false, 0};
      scheme.type = type;
      expect_equal(scheme, 224, dtype);
    }
  }
}

}  // namespace
}  // namespace roundtable
