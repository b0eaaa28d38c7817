// The tuner against a plain loop in LibTorch's autograd, and what its settings do.
#include "tune/block_tuner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "base/error.h"
#include "tests/quant/plain_formula.h"
#include "tests/tune/tuner_fixture.h"

namespace roundtable {
namespace {

using testing::PlainParameters;
using testing::TinyProblem;

TunedBlock tune(const TinyProblem& problem, const TuneSettings& settings, const TuneObserver& observer = {},
                std::int64_t batch = 4) {
  DecoderBlock block = problem.block();
  SelfCommunicator alone;
  const Sampler sampler("strata", 8, batch, 42, 0);
  return tune_block(block, problem.weights.weights, problem.schemes, problem.samples({0, 8}), problem.context, sampler,
                    settings, alone, observer);
}

// SignRound as one would write it with autograd alone: no custom function, no arena, no fused kernel.
std::vector<float> plain_losses(const TinyProblem& problem, std::int64_t iters, double lr) {
  std::vector<PlainParameters> parameters;
  for (const torch::Tensor& weight : problem.weights.weights) {
    const auto groups = problem.schemes[0]->groups(weight.size(1));
    parameters.push_back({torch::zeros_like(weight).requires_grad_(),
                          torch::ones({weight.size(0), groups}).requires_grad_(),
                          torch::ones({weight.size(0), groups}).requires_grad_()});
  }
  const Sampler sampler("strata", 8, 4, 42, 0);
  std::vector<float> losses;
  for (std::int64_t i = 0; i < iters; ++i) {
    DecoderBlock block = problem.block();
    for (std::size_t l = 0; l < parameters.size(); ++l) {
      block.linears()[l].weight =
          testing::plain_fake_quantize(problem.weights.weights[l], parameters[l], *problem.schemes[l]);
    }
    const torch::Tensor index = torch::tensor(sampler.step(i));
    const torch::Tensor loss = torch::mse_loss(block.forward(problem.input.index_select(0, index), problem.context),
                                               problem.target.index_select(0, index));
    loss.backward();
    losses.push_back(loss.item<float>());
    const torch::NoGradGuard no_gradients;
    const double rate = lr * (1.0 - static_cast<double>(i) / static_cast<double>(iters));
    for (PlainParameters& p : parameters) {
      for (torch::Tensor* t : {&p.v, &p.min_scale, &p.max_scale}) {
        t->sub_(rate * t->grad().sign());
        t->mutable_grad() = torch::Tensor();
      }
      p.min_scale.clamp_(0, 1);
      p.max_scale.clamp_(0, 1);
    }
  }
  return losses;
}

TEST(BlockTuner, FollowsThePlainLoop) {
  const TinyProblem problem;
  const TunedBlock tuned = tune(problem, {.iters = 10});
  const std::vector<float> expected = plain_losses(problem, 10, 0.1);
  ASSERT_EQ(tuned.losses.size(), expected.size());
  // The first steps are the same to rounding; later a sign that hangs on the last bit moves a weight by a whole step.
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(tuned.losses[i], expected[i], 1e-5 * expected[i]) << i;
  for (std::size_t i = 3; i < 10; ++i) EXPECT_NEAR(tuned.losses[i], expected[i], 2e-2 * expected[i]) << i;
}

TEST(BlockTuner, LowersTheLossAndKeepsTheBest) {
  const TinyProblem problem;
  const TunedBlock tuned = tune(problem, {.iters = 60});
  EXPECT_LT(tuned.best_loss(), 0.8f * tuned.first_loss());
  EXPECT_EQ(tuned.best_loss(), *std::min_element(tuned.losses.begin(), tuned.losses.end()));
}

TEST(BlockTuner, TheKeptIntegersHaveTheBestLoss) {
  const TinyProblem problem;
  DecoderBlock block = problem.block();
  SelfCommunicator alone;
  const Sampler sampler("strata", 8, 8, 42, 0);  // every sample in every step: losses can be compared
  const TunedBlock tuned = tune_block(block, problem.weights.weights, problem.schemes, problem.samples({0, 8}),
                                      problem.context, sampler, {.iters = 20}, alone);
  const float loss = torch::mse_loss(run_block(block, problem.input, problem.context, 0), problem.target).item<float>();
  EXPECT_NEAR(loss, tuned.best_loss(), 1e-5 * loss);
}

TEST(BlockTuner, MicroBatchesGiveTheSameGradients) {
  const TinyProblem problem;
  std::vector<StepGradients> seen;
  for (const std::int64_t micro : {0, 1, 3}) {
    TuneObserver observer;
    observer.on_gradients = [&](const StepGradients& step) {
      if (step.iteration != 0) return;
      seen.push_back(step);
      for (torch::Tensor& gradient : seen.back().gradients) gradient = gradient.clone();
    };
    tune(problem, {.iters = 1, .micro_batch = micro}, observer);
  }
  ASSERT_EQ(seen.size(), 3u);
  for (const std::size_t other : {1u, 2u}) {
    EXPECT_NEAR(seen[other].loss, seen[0].loss, 1e-6 * seen[0].loss);
    for (std::size_t i = 0; i < seen[0].gradients.size(); ++i) {
      const double error = (seen[other].gradients[i] - seen[0].gradients[i]).norm().item<double>();
      EXPECT_LT(error, 1e-5 * seen[0].gradients[i].norm().item<double>()) << seen[0].names[i];
    }
  }
}

TEST(BlockTuner, NoIterationsIsRoundingToNearest) {
  const TinyProblem problem;
  const TunedBlock tuned = tune(problem, {.iters = 0});
  EXPECT_TRUE(tuned.losses.empty());
  const QuantizedWeight plain =
      quantize(problem.weights.weights[0], make_rounding_parameters(problem.weights.weights[0], *problem.schemes[0]),
               *problem.schemes[0]);
  EXPECT_TRUE(torch::equal(tuned.weights[0]->q, plain.q));
}

TEST(BlockTuner, ALayerWithoutASchemeStaysFloat) {
  TinyProblem problem;
  problem.schemes[3].reset();
  DecoderBlock block = problem.block();
  SelfCommunicator alone;
  const TunedBlock tuned = tune_block(block, problem.weights.weights, problem.schemes, problem.samples({0, 8}),
                                      problem.context, Sampler("strata", 8, 4, 42, 0), {.iters = 2}, alone);
  EXPECT_FALSE(tuned.weights[3].has_value());
  EXPECT_TRUE(torch::equal(block.linears()[3].weight, problem.weights.weights[3]));
}

TEST(BlockTuner, NotUseMseKeepsTheLast) {
  const TinyProblem problem;
  EXPECT_EQ(tune(problem, {.iters = 7, .not_use_mse = true}).best_iteration, 6);
}

TEST(BlockTuner, ALossThatIsNotFiniteNamesTheLayer) {
  TinyProblem problem;
  problem.weights.weights[5].fill_(1e30f);  // mlp.up_proj
  problem.target.zero_();
  try {
    tune(problem, {.iters = 1});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kNumeric);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("mlp."));
  }
}

}  // namespace
}  // namespace roundtable
