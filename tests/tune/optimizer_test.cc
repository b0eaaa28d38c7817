// Each optimizer against LibTorch's autograd of the plain formula, stepped by LibTorch's own AdamW or by hand.
#include "tune/optimizer.h"

#include <gtest/gtest.h>
#include <torch/optim/adamw.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/quant/plain_formula.h"

namespace roundtable {
namespace {

using testing::PlainParameters;

struct Problem {
  QuantScheme scheme{4, 32, true, true, true, 1};
  torch::Tensor weight;
  RoundingParameters ours;
  PlainParameters plain;

  Problem() {
    torch::manual_seed(3);
    weight = torch::randn({8, 64});
    ours = make_rounding_parameters(weight, scheme);
    plain = {torch::zeros_like(weight).requires_grad_(), torch::ones({8, 2}).requires_grad_(),
             torch::ones({8, 2}).requires_grad_()};
  }

  // Gradients of the plain side for dL/dWq = upstream.
  void differentiate(const torch::Tensor& upstream) {
    for (torch::Tensor* t : {&plain.v, &plain.min_scale, &plain.max_scale}) t->mutable_grad() = torch::Tensor();
    testing::plain_fake_quantize(weight, plain, scheme).backward(upstream);
  }

  void clamp_plain() {
    const torch::NoGradGuard no_gradients;
    plain.min_scale.clamp_(0, 1);
    plain.max_scale.clamp_(0, 1);
  }

  void expect_close(double error) const {
    EXPECT_TRUE(torch::allclose(ours.v, plain.v, 0, error)) << (ours.v - plain.v).abs().max();
    EXPECT_TRUE(torch::allclose(ours.min_scale, plain.min_scale, 0, error));
    EXPECT_TRUE(torch::allclose(ours.max_scale, plain.max_scale, 0, error));
  }
};

TEST(Optimizer, AdamWIsLibTorchs) {
  Problem problem;
  const auto optimizer = make_optimizer(OptimizerKind::kAdamW, 0);
  torch::optim::AdamW v({problem.plain.v}, torch::optim::AdamWOptions(0.02).weight_decay(0));
  torch::optim::AdamW scales({problem.plain.min_scale, problem.plain.max_scale},
                             torch::optim::AdamWOptions(0.005).weight_decay(0));
  for (int i = 0; i < 5; ++i) {
    const torch::Tensor upstream = torch::randn({8, 64});
    optimizer->step(problem.weight, problem.ours, problem.scheme, upstream, {0.02f, 0.005f});
    problem.differentiate(upstream);
    v.step();
    scales.step();
    problem.clamp_plain();
    problem.expect_close(2e-5);
  }
  EXPECT_GT(problem.ours.v.abs().max().item<float>(), 0.02f);
}

TEST(Optimizer, MomentumStepsByTheSignOfTheBuffer) {
  Problem problem;
  const double momentum = 0.9;
  const auto optimizer = make_optimizer(OptimizerKind::kSignRound, momentum);
  std::vector<torch::Tensor> buffers;
  std::int64_t turned = 0;  // signs that the memory has decided
  for (int i = 0; i < 5; ++i) {
    const torch::Tensor upstream = torch::randn({8, 64});
    optimizer->step(problem.weight, problem.ours, problem.scheme, upstream, {0.02f, 0.005f});
    problem.differentiate(upstream);
    const torch::NoGradGuard no_gradients;
    std::size_t which = 0;
    for (torch::Tensor* t : {&problem.plain.v, &problem.plain.min_scale, &problem.plain.max_scale}) {
      if (i == 0) buffers.push_back(torch::zeros_like(*t));
      torch::Tensor& buffer = buffers[which];
      buffer = momentum * buffer + t->grad();
      t->sub_((which == 0 ? 0.02 : 0.005) * buffer.sign());
      if (which == 0) turned += (buffer.sign() != t->grad().sign()).sum().item<std::int64_t>();
      ++which;
    }
    problem.clamp_plain();
    problem.expect_close(1e-6);
  }
  EXPECT_GT(turned, 50);
}

TEST(Optimizer, WithoutMomentumItIsTheSignStep) {
  Problem problem;
  RoundingParameters other = problem.ours;
  other.v = other.v.clone();
  const torch::Tensor upstream = torch::randn({8, 64});
  make_optimizer(OptimizerKind::kSignRound, 0)->step(problem.weight, problem.ours, problem.scheme, upstream, {0.1f, 0});
  sign_step(problem.weight, other, problem.scheme, upstream, {0.1f, 0});
  EXPECT_TRUE(torch::equal(problem.ours.v, other.v));
}

TEST(Optimizer, ScalesStayWhereTheirRateIsZero) {
  for (const auto& [kind, momentum] :
       {std::pair{OptimizerKind::kAdamW, 0.0}, std::pair{OptimizerKind::kSignRound, 0.5}}) {
    Problem problem;
    make_optimizer(kind, momentum)
        ->step(problem.weight, problem.ours, problem.scheme, torch::randn({8, 64}), {0.1f, 0});
    EXPECT_TRUE(torch::equal(problem.ours.min_scale, torch::ones({8, 2})));
    EXPECT_TRUE(torch::equal(problem.ours.max_scale, torch::ones({8, 2})));
    EXPECT_GT(problem.ours.v.abs().max().item<float>(), 0);
  }
}

}  // namespace
}  // namespace roundtable
