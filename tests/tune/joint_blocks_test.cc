// Several blocks tuned as one, against the plain loop over both.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "base/error.h"
#include "tests/tune/plain_tuner.h"
#include "tests/tune/tuner_fixture.h"
#include "tune/block_tuner.h"

namespace roundtable {
namespace {

using testing::TinyProblem;

struct TwoBlocks {
  TinyProblem first;
  TinyProblem second;
  torch::Tensor target;

  TwoBlocks() {
    for (torch::Tensor& weight : second.weights.weights) weight = weight.flip(1).contiguous();
    target = TinyProblem::run(second.block(), first.target);
  }

  TunedBlock tune(std::vector<Block>& blocks, const TuneSettings& settings, const TuneObserver& observer = {}) const {
    std::vector<torch::Tensor> original = first.weights.weights;
    original.insert(original.end(), second.weights.weights.begin(), second.weights.weights.end());
    BlockSchemes schemes = first.schemes;
    schemes.insert(schemes.end(), second.schemes.begin(), second.schemes.end());
    SelfCommunicator alone;
    return BlockTuner({{&blocks[0], &blocks[1]}, original, schemes}, {{first.input, {}}, target, {0, 8}},
                      Sampler(SamplerKind::kStrata, 8, 8, 42, 0), settings, alone, observer)
        .tune();
  }

  std::vector<Block> blocks() const {
    std::vector<Block> both;
    both.push_back(first.block());
    both.push_back(second.block());
    return both;
  }
};

TEST(JointBlocks, FollowThePlainLoopOverBoth) {
  const TwoBlocks two;
  std::vector<Block> blocks = two.blocks();
  const TunedBlock tuned = two.tune(blocks, {.iters = 6});
  const auto expected = testing::plain_losses({&two.first, &two.second}, two.first.input, two.target,
                                              Sampler(SamplerKind::kStrata, 8, 8, 42, 0),
                                              {.iters = 6, .lr = [](std::int64_t i) { return (1 - i / 6.0) / 6; }});
  ASSERT_EQ(tuned.losses.size(), expected.size());
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(tuned.losses[i], expected[i], 1e-5 * expected[i]) << i;
  for (std::size_t i = 3; i < 6; ++i) EXPECT_NEAR(tuned.losses[i], expected[i], 2e-2 * expected[i]) << i;
}

TEST(JointBlocks, TheBlocksAreLeftWithTheBestWeights) {
  const TwoBlocks two;
  std::vector<Block> blocks = two.blocks();
  const TunedBlock tuned = two.tune(blocks, {.iters = 20});
  ASSERT_EQ(tuned.weights.size(), 14u);
  EXPECT_LT(tuned.best_loss(), 0.9f * tuned.first_loss());
  const torch::Tensor middle = TinyProblem::run(blocks[0], two.first.input);
  const torch::Tensor end = TinyProblem::run(blocks[1], middle);
  const float loss = torch::mse_loss(end, two.target).item<float>();
  EXPECT_NEAR(loss, tuned.best_loss(), 1e-5 * loss);
}

TEST(JointBlocks, ALayersNameSaysWhichBlock) {
  const TwoBlocks two;
  std::vector<Block> blocks = two.blocks();
  std::vector<std::string> names;
  TuneObserver observer;
  observer.on_gradients = [&](const StepGradients& step) { names = step.names; };
  two.tune(blocks, {.iters = 1}, observer);
  ASSERT_EQ(names.size(), 14u);
  EXPECT_EQ(names.front(), "0.self_attn.q_proj");
  EXPECT_EQ(names.back(), "1.mlp.down_proj");
}

}  // namespace
}  // namespace roundtable
