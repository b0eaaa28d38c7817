// Shards of a group, from two ranks on: the gradients and losses of the plain loop and of one rank, and the same
// integers on every rank.
#include <gtest/gtest.h>
#include <torch/types.h>

#include "model/load/tensor_span.h"
#include "tests/mpi_main.h"
#include "tests/tune/plain_tuner.h"
#include "tests/tune/tuner_fixture.h"
#include "tune/losses/importance.h"

namespace roundtable {
namespace {

using testing::TinyProblem;
using testing::world;

// Buckets small enough that the tiny block has several.
TuneSettings twelve_steps() { return {.iters = 12, .bucket_bytes = 1024}; }

struct FirstStep {
  float loss = 0;
  std::vector<torch::Tensor> gradients;
};

SampleRange own_samples() { return shard_samples(8, 4, world().size(), world().rank()); }

TunedBlock tune(const TinyProblem& problem, const SampleRange& range, HostCommunicator& group, FirstStep& first,
                SamplerKind kind, const TuneSettings& settings = twelve_steps()) {
  Block block = problem.block();
  TuneObserver observer;
  observer.on_gradients = [&](const StepGradients& step) {
    if (step.iteration != 0) return;
    first.loss = step.loss;
    for (const torch::Tensor& gradient : step.gradients) first.gradients.push_back(gradient.clone());
  };
  return BlockTuner(problem.unit(block), problem.samples(range), Sampler(kind, 8, 4, 42, 0), settings, group, observer)
      .tune();
}

// q_proj's input by hand: the norm of the block's input, whose weights are 1.
TEST(ImportanceShards, AreTheSumsOfSquaresOverAllRanksSamples) {
  const TinyProblem problem;
  const SampleRange range = own_samples();
  Block block = problem.block();
  std::vector<torch::Tensor> sums;
  {
    const Importance inputs(block, problem.model.linears(0));
    run_block(block, problem.samples(range).input, 3);
    sums = inputs.sum(world());
  }
  ASSERT_EQ(sums.size(), block.linears().size());
  const torch::Tensor x = problem.input.to(torch::kFloat64);
  const torch::Tensor normed = x * torch::rsqrt(x.square().mean(-1, true) + problem.llama.norm_eps);
  const torch::Tensor want = normed.square().sum({0, 1});
  for (const std::size_t reader : {0, 1, 2}) {
    EXPECT_TRUE(torch::allclose(sums[reader].to(torch::kFloat64), want, 1e-4)) << reader;
  }
  EXPECT_TRUE(torch::equal(sums[4], sums[5]));  // gate and up
  EXPECT_EQ(sums[6].size(0), problem.llama.intermediate);
  TinyProblem::run(block, problem.input);  // nobody watches any more
}

class Shards : public ::testing::TestWithParam<SamplerKind> {};

// An independent program on all samples, of which each rank here has a part.
TEST_P(Shards, FollowThePlainLoop) {
  const TinyProblem problem;
  FirstStep ignored;
  const TunedBlock tuned = tune(problem, own_samples(), world(), ignored, GetParam());
  const auto rate = [](std::int64_t i) { return (1 - static_cast<double>(i) / 12) / 12; };
  const auto expected = testing::plain_losses({&problem}, problem.input, problem.target,
                                              Sampler(GetParam(), 8, 4, 42, 0), {.iters = 12, .lr = rate});
  ASSERT_EQ(tuned.losses.size(), expected.size());
  // As in block_tuner_test.
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(tuned.losses[i], expected[i], 1e-5 * expected[i]) << i;
  for (std::size_t i = 3; i < 12; ++i) EXPECT_NEAR(tuned.losses[i], expected[i], 2e-2 * expected[i]) << i;
}

TEST_P(Shards, GradientsAndLossEqualOneRanks) {
  const TinyProblem problem;
  FirstStep together;
  FirstStep single;
  SelfCommunicator alone;
  tune(problem, own_samples(), world(), together, GetParam());
  tune(problem, {0, 8}, alone, single, GetParam());
  EXPECT_NEAR(together.loss, single.loss, 1e-6 * single.loss);
  ASSERT_EQ(together.gradients.size(), single.gradients.size());
  for (std::size_t i = 0; i < single.gradients.size(); ++i) {
    const double error = (together.gradients[i] - single.gradients[i]).norm().item<double>();
    EXPECT_LT(error, 1e-5 * single.gradients[i].norm().item<double>()) << i;
  }
}

TEST_P(Shards, EveryRankEndsWithTheSameIntegers) {
  const TinyProblem problem;
  FirstStep ignored;
  const TunedBlock tuned = tune(problem, own_samples(), world(), ignored, GetParam());
  for (const auto& weight : tuned.weights) {
    torch::Tensor sum = weight->q.to(torch::kInt64);
    torch::Tensor mine = sum.clone();
    world().all_reduce_sum(host_span(sum));
    EXPECT_TRUE(torch::equal(sum, mine * world().size()));
  }
}

TEST(Reproducible, EveryNumberOfRanksFormsTheSameSums) {
  const TinyProblem problem;
  FirstStep together, single;
  SelfCommunicator alone;
  TuneSettings settings = twelve_steps();
  settings.reproducible = true;
  const TunedBlock many = tune(problem, own_samples(), world(), together, SamplerKind::kStrata, settings);
  const TunedBlock one = tune(problem, {0, 8}, alone, single, SamplerKind::kStrata, settings);
  EXPECT_EQ(many.losses, one.losses);
  for (std::size_t i = 0; i < single.gradients.size(); ++i) {
    EXPECT_TRUE(torch::equal(together.gradients[i], single.gradients[i])) << i;
  }
  for (std::size_t i = 0; i < one.weights.size(); ++i) EXPECT_TRUE(torch::equal(many.weights[i]->q, one.weights[i]->q));
}

// bf16 keeps 8 bits of a number, so that a sum over n ranks is off by up to n * 2^-9 of its terms' sizes.
TEST(GradientType, Bf16SumsWithinItsRoundingAndLeavesTheLossAlone) {
  const TinyProblem problem;
  FirstStep exact, rounded;
  TuneSettings settings = twelve_steps();
  const SampleRange range = own_samples();
  tune(problem, range, world(), exact, SamplerKind::kStrata, settings);
  settings.gradient_type = ElementType::kBF16;
  tune(problem, range, world(), rounded, SamplerKind::kStrata, settings);
  EXPECT_EQ(rounded.loss, exact.loss);
  for (std::size_t i = 0; i < exact.gradients.size(); ++i) {
    const double error = (rounded.gradients[i] - exact.gradients[i]).norm().item<double>();
    const double relative = error / exact.gradients[i].norm().item<double>();
    EXPECT_LT(relative, 4e-3) << i;
    EXPECT_GT(relative, 1e-4) << i;
    if (world().rank() == 0) RecordProperty("relative_error_" + std::to_string(i), std::to_string(relative));
  }
}

// A majority of signs decides each step: the loss falls, and all ranks agree.
TEST(GradientType, AVoteOfSignsTunesToo) {
  const TinyProblem problem;
  FirstStep first;
  TuneSettings settings = twelve_steps();
  settings.gradient_type = ElementType::kI8;
  const TunedBlock tuned = tune(problem, own_samples(), world(), first, SamplerKind::kStrata, settings);
  EXPECT_LT(tuned.best_loss(), 0.97f * tuned.first_loss());
  for (const torch::Tensor& votes : first.gradients) {
    EXPECT_TRUE(torch::equal(votes, votes.round()));
    EXPECT_LE(votes.abs().max().item<float>(), static_cast<float>(world().size()));
  }
}

TEST(Reduction, IsCountedInBytes) {
  const TinyProblem problem;
  FirstStep ignored;
  const TunedBlock tuned = tune(problem, own_samples(), world(), ignored, SamplerKind::kStrata);
  std::int64_t weights = 0;
  for (const auto& weight : tuned.weights) weights += weight->q.numel();
  EXPECT_EQ(tuned.reduction.bytes, 12 * (weights + 2) * 4);
}

INSTANTIATE_TEST_SUITE_P(Samplers, Shards, ::testing::Values(SamplerKind::kStrata, SamplerKind::kRand));

}  // namespace
}  // namespace roundtable
