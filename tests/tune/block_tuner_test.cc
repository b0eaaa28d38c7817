// The tuner against a plain loop in LibTorch's autograd, and what its settings do.
#include "tune/block_tuner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>

#include "base/error.h"
#include "tests/tune/plain_tuner.h"
#include "tests/tune/tuner_fixture.h"
#include "tune/losses/importance.h"

namespace roundtable {
namespace {

using testing::TinyProblem;

TunedBlock tune(const TinyProblem& problem, const TuneSettings& settings, const TuneObserver& observer = {},
                std::int64_t batch = 4) {
  Block block = problem.block();
  SelfCommunicator alone;
  const Sampler sampler(SamplerKind::kStrata, 8, batch, 42, 0);
  return BlockTuner(problem.unit(block), problem.samples({0, 8}), sampler, settings, alone, observer).tune();
}

double linear(std::int64_t i) { return 0.1 * (1 - static_cast<double>(i) / 10); }

// Holds 10 iterations against the plain loop's.
void expect_plain_losses(const TuneSettings& settings, const testing::PlainSettings& plain) {
  const TinyProblem problem;
  const TunedBlock tuned = tune(problem, settings);
  const auto expected = testing::plain_losses({&problem}, problem.input, problem.target,
                                              Sampler(SamplerKind::kStrata, 8, 4, 42, 0), plain);
  ASSERT_EQ(tuned.losses.size(), expected.size());
  // The first steps are the same to rounding; later a sign that depends on the last bit moves a weight by a whole step.
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(tuned.losses[i], expected[i], 1e-5 * expected[i]) << i;
  for (std::size_t i = 3; i < 10; ++i) EXPECT_NEAR(tuned.losses[i], expected[i], 2e-2 * expected[i]) << i;
}

TEST(BlockTuner, FollowsThePlainLoop) { expect_plain_losses({.iters = 10}, {.lr = linear}); }

TEST(BlockTuner, FollowsThePlainLoopWithMomentum) {
  expect_plain_losses({.iters = 10, .momentum = 0.8}, {.lr = linear, .momentum = 0.8});
}

TEST(BlockTuner, FollowsThePlainLoopWithAConstantRate) {
  expect_plain_losses({.iters = 10, .lr = 0.05, .lr_scheduler = LrScheduler::kConstant},
                      {.lr = [](std::int64_t) { return 0.05; }});
}

TEST(BlockTuner, FollowsThePlainLoopWithACosine) {
  expect_plain_losses({.iters = 10, .lr_scheduler = LrScheduler::kCosine}, {.lr = [](std::int64_t i) {
                        return 0.1 * (1 + std::cos(M_PI * static_cast<double>(i) / 10)) / 2;
                      }});
}

TEST(BlockTuner, FollowsThePlainLoopWithAdamW) {
  expect_plain_losses({.iters = 10, .optimizer = OptimizerKind::kAdamW},
                      {.lr = [](std::int64_t i) { return linear(i) / 10; }, .adamw = true});
}

TEST(BlockTuner, EndsWhenTheLossNoLongerFalls) {
  const TinyProblem problem;
  // A rate so high that no later step is better than the first for long.
  TuneSettings settings{.iters = 60, .lr = 0.5, .lr_scheduler = LrScheduler::kConstant};
  const TunedBlock whole = tune(problem, settings);
  settings.dynamic_max_gap = 5;
  const TunedBlock stopped = tune(problem, settings);
  ASSERT_LT(stopped.losses.size(), whole.losses.size());
  const auto last = static_cast<std::int64_t>(stopped.losses.size()) - 1;
  EXPECT_EQ(last, stopped.best_iteration + 5);
  // Up to there it is the same run.
  for (std::size_t i = 0; i < stopped.losses.size(); ++i) EXPECT_EQ(stopped.losses[i], whole.losses[i]) << i;
  settings.not_use_mse = true;  // the reference asks for the last parameters, and then does not stop
  EXPECT_EQ(tune(problem, settings).losses.size(), 60u);
}

TEST(BlockTuner, LowersTheLossAndKeepsTheBest) {
  const TinyProblem problem;
  const TunedBlock tuned = tune(problem, {.iters = 60});
  EXPECT_LT(tuned.best_loss(), 0.8f * tuned.first_loss());
  EXPECT_EQ(tuned.best_loss(), *std::min_element(tuned.losses.begin(), tuned.losses.end()));
}

TEST(BlockTuner, TheKeptIntegersHaveTheBestLoss) {
  const TinyProblem problem;
  Block block = problem.block();
  SelfCommunicator alone;
  const Sampler sampler(SamplerKind::kStrata, 8, 8, 42, 0);  // every sample in every step: losses can be compared
  const TunedBlock tuned =
      BlockTuner(problem.unit(block), problem.samples({0, 8}), sampler, {.iters = 20}, alone).tune();
  const float loss = torch::mse_loss(TinyProblem::run(block, problem.input), problem.target).item<float>();
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

// As on a device, where the host learns of a loss a step late.
TEST(BlockTuner, LateReportsChangeNothing) {
  const TinyProblem problem;
  const TunedBlock at_once = tune(problem, {.iters = 15});
  std::vector<std::int64_t> seen;
  TuneObserver observer;
  observer.on_iteration = [&](std::int64_t iteration, float, float) { seen.push_back(iteration); };
  const TunedBlock late = tune(problem, {.iters = 15, .late_reports = true}, observer);
  EXPECT_EQ(late.losses, at_once.losses);
  EXPECT_EQ(late.best_iteration, at_once.best_iteration);
  ASSERT_EQ(seen.size(), 15u);
  EXPECT_EQ(seen.back(), 14);
  for (std::size_t i = 0; i < late.weights.size(); ++i) {
    EXPECT_TRUE(torch::equal(late.weights[i]->q, at_once.weights[i]->q)) << i;
    EXPECT_TRUE(torch::equal(late.weights[i]->scale, at_once.weights[i]->scale)) << i;
  }
  EXPECT_EQ(tune(problem, {.iters = 1, .late_reports = true}).losses.size(), 1u);
}

TEST(BlockTuner, LateReportsStillEndTheSteps) {
  TinyProblem problem;
  TuneObserver observer;
  int steps = 0;
  observer.wants_to_leave = [&] { return ++steps == 3; };
  EXPECT_THROW(tune(problem, {.iters = 15, .late_reports = true}, observer), AgreedError);
  EXPECT_EQ(steps, 4);  // one more was on its way
  problem.weights.weights[5].fill_(1e30f);
  problem.target.zero_();
  EXPECT_THROW(tune(problem, {.iters = 15, .late_reports = true}), BrokenLoss);
  EXPECT_THROW(tune(problem, {.iters = 1, .late_reports = true}), BrokenLoss);
}

TEST(Importance, HasAPlaceForLayersThatAnotherRankHolds) {
  const Model model = testing::tiny_mixtral_model();
  const KindTable& table = model.table(0);
  BlockWeights weights;
  for (const LinearSpec& linear : table.linears) {
    const bool held = ExpertPart{1, 2}.holds(linear.expert, table.experts);
    weights.weights.push_back(held ? torch::ones({linear.out, linear.in}) : torch::Tensor());
  }
  for (const ParameterSpec& other : table.others) weights.others.push_back(torch::ones(other.shape));
  Block block = BlockMaker(model, torch::kCPU).make(weights);
  SelfCommunicator alone;
  const std::vector<torch::Tensor> sums = Importance(block, table.linears).sum(alone);
  ASSERT_EQ(sums.size(), table.linears.size());
  for (std::size_t i = 0; i < sums.size(); ++i) EXPECT_EQ(sums[i].numel(), table.linears[i].in) << i;
}

TEST(BlockTuner, StartsFromSearchedScales) {
  const TinyProblem problem;
  const auto tuned = [&](bool search, std::int64_t iters) {
    Block block = problem.block();
    SelfCommunicator alone;
    BlockSamples samples = problem.samples({0, 8});
    if (search) {
      const Importance inputs(block, problem.model.linears(0));
      TinyProblem::run(block, problem.input);
      samples.importance = inputs.sum(alone);
    }
    const Sampler sampler(SamplerKind::kStrata, 8, 8, 42, 0);
    return BlockTuner(problem.unit(block), samples, sampler, {.iters = iters}, alone).tune();
  };
  EXPECT_LT(tuned(true, 1).first_loss(), 0.9f * tuned(false, 1).first_loss());
  EXPECT_LT(tuned(true, 20).best_loss(), tuned(false, 20).best_loss());
}

TEST(BlockTuner, TheLargestErrorsAreLeftOut) {
  const TinyProblem problem;
  const float whole = tune(problem, {.iters = 1}).first_loss();
  EXPECT_LT(tune(problem, {.iters = 1, .outliers = 0.05}).first_loss(), 0.9f * whole);
}

TEST(BlockTuner, FactorsAboveOneMakeLargerScales) {
  const TinyProblem problem;
  const auto largest_growth = [&](double bound) {
    const TuneSettings settings{.iters = 10, .lr = 0.05, .minmax_scale_bound = bound, .not_use_mse = true};
    const QuantizedWeight tuned = *tune(problem, settings).weights[0];
    const GroupScales start = nearest_scales(problem.weights.weights[0], *problem.schemes[0]);
    return (tuned.scale / start.scale).max().item<float>();
  };
  EXPECT_LE(largest_growth(1), 1);
  EXPECT_GT(largest_growth(2), 1.05);
}

TEST(BlockTuner, ALayerWithoutASchemeStaysFloat) {
  TinyProblem problem;
  problem.schemes[3].reset();
  Block block = problem.block();
  SelfCommunicator alone;
  const Sampler sampler(SamplerKind::kStrata, 8, 4, 42, 0);
  const TunedBlock tuned =
      BlockTuner(problem.unit(block), problem.samples({0, 8}), sampler, {.iters = 2}, alone).tune();
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
