// Tuning a block whose experts are divided over the ranks of a group, at any number of ranks: gradients and losses of
// one rank that holds them all, and with run.reproducible its bits.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "graph/expert_part.h"
#include "model/load/tensor_span.h"
#include "tests/graph/tiny_models.h"
#include "tests/mpi_main.h"
#include "tests/tune/tuner_fixture.h"
#include "tune/block_tuner.h"
#include "tune/losses/importance.h"
#include "tune/losses/starved_experts.h"

namespace roundtable {
namespace {

using testing::world;

constexpr std::int64_t kExperts = 8, kSamples = 8, kBatch = 4;

// A small random Mixtral block with samples, the same on every rank.
struct Problem {
  Model model = testing::tiny_mixtral_model({.llama = {}, .experts = kExperts});
  BlockWeights weights;
  torch::Tensor input, target;

  Problem() {
    torch::manual_seed(12);
    for (const LinearSpec& linear : model.linears(0)) {
      weights.weights.push_back(torch::randn({linear.out, linear.in}) / std::sqrt(static_cast<double>(linear.in)));
    }
    for (const ParameterSpec& other : model.table(0).others) {
      weights.others.push_back(other.shape.size() == 1 ? torch::ones(other.shape) : torch::randn(other.shape));
    }
    input = torch::randn({kSamples, model.seqlen(), 64});
    target = run_block(BlockMaker(model, torch::kCPU).make(weights), {input, {}}, 1).hidden;
  }

  // What the rank with `part` holds.
  BlockWeights held(const ExpertPart& part) const {
    BlockWeights own = weights;
    for (std::size_t i = 0; i < own.weights.size(); ++i) {
      if (!part.holds(model.linears(0)[i].expert, kExperts)) own.weights[i] = torch::Tensor();
    }
    return own;
  }
};

struct Outcome {
  std::map<std::string, torch::Tensor> gradients;  // of the first step
  float first_loss = 0;
  TunedBlock tuned;
  std::vector<torch::Tensor> importance;
  States output;
};

// Tunes with the samples of this rank of `group`.
Outcome tune(const Problem& problem, HostCommunicator& group, bool divided, TuneSettings settings,
         SamplerKind kind = SamplerKind::kStrata, const QuantScheme& scheme = {3, 32, true, true, true, 1}) {
  const ExpertPart part = divided ? ExpertPart{group.rank(), group.size()} : ExpertPart{};
  auto exchange = divided ? std::make_shared<ExpertExchange>(ExpertExchange{group, settings.reproducible}) : nullptr;
  const BlockWeights weights = problem.held(part);
  Block block = BlockMaker(problem.model, torch::kCPU, exchange).make(weights);
  const SampleRange range = shard_samples(kSamples, kBatch, group.size(), group.rank());
  const States input{problem.input.narrow(0, range.begin, range.size()), {}};
  Outcome run;
  {
    const Importance inputs(block, problem.model.linears(0));
    run_block(block, input, 1);
    run.importance = inputs.sum(group);
  }
  BlockSchemes schemes(weights.weights.size(), scheme);
  TuneObserver observer;
  observer.on_gradients = [&](const StepGradients& step) {
    if (step.iteration != 0) return;
    run.first_loss = step.loss;
    for (std::size_t i = 0; i < step.names.size(); ++i) run.gradients[step.names[i]] = step.gradients[i].clone();
  };
  run.tuned = BlockTuner({{&block}, weights.weights, schemes},
                         {input, problem.target.narrow(0, range.begin, range.size()), range},
                         Sampler(kind, kSamples, kBatch, 42, 0), settings, group, observer)
                  .tune();
  run.output = run_block(block, input, 1);
  return run;
}

TuneSettings steps(std::int64_t iters) { return {.iters = iters, .bucket_bytes = 1024}; }

class Divided : public ::testing::TestWithParam<SamplerKind> {};

TEST_P(Divided, GradientsAndTheFirstLossAreThoseOfOneRank) {
  const Problem problem;
  SelfCommunicator alone;
  const Outcome one = tune(problem, alone, false, steps(6), GetParam());
  const Outcome all = tune(problem, world(), true, steps(6), GetParam());
  EXPECT_NEAR(all.first_loss, one.first_loss, 1e-5 * one.first_loss);
  const ExpertPart part{world().rank(), world().size()};
  std::size_t compared = 0;
  for (const LinearSpec& linear : problem.model.linears(0)) {
    const bool held = part.holds(linear.expert, kExperts);
    EXPECT_EQ(all.gradients.contains(linear.name), held) << linear.name;
    if (!held) continue;
    ++compared;
    const torch::Tensor& wanted = one.gradients.at(linear.name);
    EXPECT_TRUE(torch::allclose(all.gradients.at(linear.name), wanted, 1e-5,
                                1e-5 * wanted.abs().max().item<double>())) << linear.name;
  }
  EXPECT_EQ(compared, 4 + 3 * static_cast<std::size_t>(kExperts / world().size()));
  // Later losses differ: a sign step turns what one sum rounds differently into a whole step.
  ASSERT_EQ(all.tuned.losses.size(), one.tuned.losses.size());
  for (std::size_t i = 1; i < 6; ++i) EXPECT_NEAR(all.tuned.losses[i], one.tuned.losses[i], 0.05 * one.tuned.losses[i]);
}

INSTANTIATE_TEST_SUITE_P(Samplers, Divided, ::testing::Values(SamplerKind::kStrata, SamplerKind::kRand));

TEST(DividedTuning, MicroBatchesAreAsManyOnEachRank) {
  const Problem problem;
  TuneSettings settings = steps(3);
  settings.micro_batch = 1;
  SelfCommunicator alone;
  const Outcome one = tune(problem, alone, false, settings, SamplerKind::kRand);
  const Outcome all = tune(problem, world(), true, settings, SamplerKind::kRand);
  EXPECT_NEAR(all.first_loss, one.first_loss, 1e-5 * one.first_loss);
}

TEST(DividedTuning, AReproducibleRunHasTheBitsOfOneRank) {
  const Problem problem;
  TuneSettings settings = steps(6);
  settings.reproducible = true;
  SelfCommunicator alone;
  const Outcome one = tune(problem, alone, false, settings);
  const Outcome all = tune(problem, world(), true, settings);
  EXPECT_EQ(all.tuned.losses, one.tuned.losses);
  EXPECT_EQ(all.tuned.best_iteration, one.tuned.best_iteration);
  const ExpertPart part{world().rank(), world().size()};
  for (std::size_t i = 0; i < problem.model.linears(0).size(); ++i) {
    const LinearSpec& linear = problem.model.linears(0)[i];
    ASSERT_EQ(all.tuned.weights[i].has_value(), part.holds(linear.expert, kExperts)) << linear.name;
    if (!all.tuned.weights[i]) continue;
    EXPECT_TRUE(torch::equal(all.gradients.at(linear.name), one.gradients.at(linear.name))) << linear.name;
    EXPECT_TRUE(torch::equal(all.tuned.weights[i]->q, one.tuned.weights[i]->q)) << linear.name;
    EXPECT_TRUE(torch::equal(all.tuned.weights[i]->scale, one.tuned.weights[i]->scale)) << linear.name;
  }
  const SampleRange range = shard_samples(kSamples, kBatch, world().size(), world().rank());
  EXPECT_TRUE(torch::equal(all.output.hidden, one.output.hidden.narrow(0, range.begin, range.size())));
}

// The experts' owners see the tokens of all ranks.
TEST(DividedTuning, ImportanceIsThatOfOneRank) {
  const Problem problem;
  SelfCommunicator alone;
  const Outcome one = tune(problem, alone, false, steps(0));
  const Outcome all = tune(problem, world(), true, steps(0));
  const ExpertPart part{world().rank(), world().size()};
  for (std::size_t i = 0; i < problem.model.linears(0).size(); ++i) {
    const LinearSpec& linear = problem.model.linears(0)[i];
    if (!part.holds(linear.expert, kExperts)) continue;
    EXPECT_TRUE(torch::allclose(all.importance[i], one.importance[i], 1e-4)) << linear.name;
  }
}

// The largest weight of all is one rank's: all ranks scale by it.
TEST(DividedTuning, TheGlobalScaleOfNvFpIsThatOfOneRank) {
  Problem problem;
  problem.weights.weights.back()[0][0] = 50;
  SelfCommunicator alone;
  const QuantScheme scheme{.bits = 4, .group_size = 16, .type = WeightType::kNvFp4};
  const Outcome one = tune(problem, alone, false, steps(0), SamplerKind::kStrata, scheme);
  const Outcome all = tune(problem, world(), true, steps(0), SamplerKind::kStrata, scheme);
  std::size_t compared = 0;
  for (std::size_t i = 0; i < one.tuned.weights.size(); ++i) {
    if (!all.tuned.weights[i]) continue;
    ++compared;
    EXPECT_EQ(all.tuned.weights[i]->scheme.global_scale, one.tuned.weights[i]->scheme.global_scale);
    EXPECT_TRUE(torch::equal(all.tuned.weights[i]->scale, one.tuned.weights[i]->scale));
  }
  EXPECT_EQ(compared, 4 + 3 * static_cast<std::size_t>(kExperts / world().size()));
}

// --- experts that few tokens choose -----------------------------------------------------------------------------------

constexpr std::int64_t kIdle = 6;  // no token chooses it

// A problem with an expert that is never chosen.
struct Starved : Problem {
  Starved() {
    input.select(-1, 0).fill_(20);
    for (std::size_t i = 0; i < weights.others.size(); ++i) {
      if (model.table(0).others[i].shape.size() != 2) continue;
      weights.others[i].select(1, 0).zero_();  // of the other experts, the rest of a token decides
      weights.others[i][kIdle][0] = -20;
    }
  }
};

struct Calibration {
  StarvedExperts found;
  std::vector<std::int64_t> seen;  // by the float pass
  std::vector<torch::Tensor> plain, importance;
  torch::Tensor before, after;  // outputs of this rank's samples
};

// The float pass of calibration with what follows it, for the samples of this rank of `group`. Experts of `quantized`.
Calibration calibrate(const Problem& problem, HostCommunicator& group, bool divided, std::int64_t least,
                      const std::vector<bool>& quantized, bool turns = false) {
  const ExpertPart part = divided ? ExpertPart{group.rank(), group.size()} : ExpertPart{};
  auto exchange = divided ? std::make_shared<ExpertExchange>(ExpertExchange{group, turns}) : nullptr;
  Block block = BlockMaker(problem.model, torch::kCPU, exchange).make(problem.held(part));
  const SampleRange range = shard_samples(kSamples, kBatch, group.size(), group.rank());
  const States states{problem.input.narrow(0, range.begin, range.size()), {}};
  Calibration run;
  {
    const Importance alone(block, problem.model.linears(0));
    run_block(block, states, 1);
    run.plain = alone.sum(group);
  }
  block.clear_expert_tokens();
  Importance inputs(block, problem.model.linears(0));
  run.before = run_block(block, states, 1).hidden;
  run.seen = tokens_of_group(block, group);
  run.found = show_more_tokens(block, {states, range, kSamples}, quantized, least, &inputs, group);
  run.importance = inputs.sum(group);
  block.set_observer({});
  run.after = run_block(block, states, 1).hidden;
  return run;
}

std::vector<bool> every_expert() { return std::vector<bool>(kExperts, true); }

// Each token of the set goes to the idle expert, so that its layers weigh their inputs as a layer that all tokens pass:
// half of the sum over all experts, of which each token chooses two.
TEST(StarvedExperts, TheIdleExpertSeesOtherTokens) {
  const Starved problem;
  std::vector<bool> one(kExperts);
  one[kIdle] = true;
  const std::int64_t all = kSamples * problem.model.seqlen();
  const Calibration run = calibrate(problem, world(), true, all, one);
  EXPECT_EQ(run.seen[kIdle], 0);
  EXPECT_EQ(run.found, (StarvedExperts{.starved = 1, .added = all, .left = 0}));
  // Nothing else sees them.
  EXPECT_TRUE(torch::equal(run.before, run.after));
  const ExpertPart part{world().rank(), world().size()};
  std::vector<torch::Tensor> sums = run.plain;  // each rank has those of its own experts
  torch::Tensor everyones = torch::zeros({64});
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const LinearSpec& linear = problem.model.linears(0)[i];
    if (linear.name.ends_with("w1") && part.holds(linear.expert, kExperts)) everyones += sums[i];
    if (linear.expert != kIdle && part.holds(linear.expert, kExperts)) {
      EXPECT_TRUE(torch::equal(run.importance[i], run.plain[i])) << linear.name;
    }
  }
  world().all_reduce_sum(host_span(everyones));
  if (!part.holds(kIdle, kExperts)) return;
  std::size_t compared = 0;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const LinearSpec& linear = problem.model.linears(0)[i];
    if (linear.expert != kIdle) continue;
    ++compared;
    EXPECT_EQ(run.plain[i].abs().max().item<float>(), 0) << linear.name;
    if (linear.name.ends_with("w2")) {
      EXPECT_GT(run.importance[i].min().item<float>(), 0);
    } else {
      EXPECT_TRUE(torch::allclose(run.importance[i], everyones / 2, 1e-4)) << linear.name;
    }
  }
  EXPECT_EQ(compared, 3u);
}

// Some experts have enough, some too few.
TEST(StarvedExperts, AnyDivisionOfTheSamplesAndExpertsShowsThemTheSame) {
  const Starved problem;
  constexpr std::int64_t kLeast = 30;
  SelfCommunicator alone;
  const Calibration one = calibrate(problem, alone, false, kLeast, every_expert());
  std::int64_t few = 0, missing = 0;
  for (const std::int64_t tokens : one.seen) {
    few += tokens < kLeast ? 1 : 0;
    missing += std::max<std::int64_t>(0, kLeast - tokens);
  }
  ASSERT_GT(few, 1) << "or the test shows nothing";
  ASSERT_LT(few, kExperts);
  EXPECT_EQ(one.found, (StarvedExperts{.starved = few, .added = missing, .left = 0}));
  const ExpertPart part{world().rank(), world().size()};
  for (const bool divided : {false, true}) {
    for (const bool turns : {false, true}) {
      const Calibration all = calibrate(problem, world(), divided, kLeast, every_expert(), turns);
      EXPECT_EQ(all.found, one.found);
      EXPECT_TRUE(torch::equal(all.before, all.after));
      for (std::size_t i = 0; i < problem.model.linears(0).size(); ++i) {
        const LinearSpec& linear = problem.model.linears(0)[i];
        if (divided && !part.holds(linear.expert, kExperts)) continue;
        const torch::Tensor& expected = one.importance[i];
        if (linear.expert < 0 || one.seen[static_cast<std::size_t>(linear.expert)] >= kLeast) {
          EXPECT_TRUE(torch::equal(expected, one.plain[i])) << linear.name;
        } else {
          EXPECT_FALSE(torch::allclose(expected, one.plain[i], 1e-4)) << linear.name;
        }
        EXPECT_TRUE(torch::allclose(all.importance[i], expected, 1e-4)) << linear.name;
        if (divided != turns) continue;  // with ranks that take turns, an expert sees the rows of one rank at a time
        EXPECT_TRUE(torch::equal(all.importance[i], expected)) << linear.name;
      }
    }
  }
}

TEST(StarvedExperts, AreOnlyCountedWhereScalesAreNotSearched) {
  const Starved problem;
  Block block = BlockMaker(problem.model, torch::kCPU).make(problem.weights);
  const SampleRange range = shard_samples(kSamples, kBatch, world().size(), world().rank());
  const States states{problem.input.narrow(0, range.begin, range.size()), {}};
  run_block(block, states, 1);
  const std::vector<std::int64_t> before = block.expert_tokens();
  const StarvedExperts found = show_more_tokens(block, {states, range, kSamples}, every_expert(), 1, nullptr, world());
  EXPECT_EQ(found, (StarvedExperts{.starved = 1, .added = 0, .left = 1}));
  EXPECT_EQ(block.expert_tokens(), before);
}

// More than the tokens have places for: all places are given, and the rest is said.
TEST(StarvedExperts, ThatCannotSeeEnoughAreCounted) {
  const Starved problem;
  const std::int64_t all = kSamples * problem.model.seqlen();
  const Calibration run = calibrate(problem, world(), true, all, every_expert());
  EXPECT_EQ(run.found.starved, kExperts);
  EXPECT_GT(run.found.left, 0);
  EXPECT_EQ(run.found.added, 2 * all);  // Mixtral's tokens have two places
}

}  // namespace
}  // namespace roundtable
