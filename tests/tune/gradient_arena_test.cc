// What is in an arena after some gradients.
#include "tune/gradients/gradient_arena.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

namespace roundtable {
namespace {

class Arena : public ::testing::TestWithParam<torch::ScalarType> {
 protected:
  Arena() : arena({torch::empty({301, 257}), torch::empty({2, 3})}, torch::kCPU) { torch::manual_seed(1); }
  torch::Tensor random() const { return torch::randn({301, 257}).to(GetParam()); }
  GradientArena arena;
};

// To the bit: one fp32 addition.
TEST_P(Arena, TheFirstReplacesAndTheNextIsAdded) {
  for (int sum = 0; sum < 2; ++sum) {
    const torch::Tensor a = random(), b = random();
    arena.clear();
    arena.take(0, a);
    arena.take(1, torch::ones({2, 3}));
    arena.take(0, b);
    arena.settle();
    EXPECT_TRUE(torch::equal(arena.gradient(0), a.to(torch::kFloat32) + b));
    EXPECT_TRUE((arena.gradient(1) == 1).all().item<bool>());
  }
}

TEST(ArenaOfExperts, RanksSumWhatLiesBehindTheLayersOfOneRankAlone) {
  GradientArena arena({torch::empty({2, 3}), torch::empty({4, 3}), torch::empty({5, 2})}, torch::kCPU, 2);
  EXPECT_EQ(arena.reduced().numel(), 10 + GradientArena::kTail);
  EXPECT_EQ(arena.reduced().data_ptr(), arena.gradient(2).data_ptr());
  EXPECT_EQ(GradientArena({}, torch::kCPU).reduced().numel(), GradientArena::kTail);
}

TEST_P(Arena, WhatGotNoneIsZero) {
  arena.clear();
  arena.take(0, random());
  arena.take(1, torch::ones({2, 3}));
  arena.add_loss(torch::full({}, 5.0f));
  arena.vote_to_leave();
  arena.settle();
  EXPECT_EQ(arena.loss().item<float>(), 5);
  EXPECT_EQ(arena.tail()[0].item<float>(), 1);
  arena.clear();
  arena.take(0, random());
  arena.settle();
  EXPECT_TRUE((arena.gradient(1) == 0).all().item<bool>());
  EXPECT_TRUE((arena.tail() == 0).all().item<bool>());
}

TEST_P(Arena, GradientsLieOneAfterTheOther) {
  const torch::Tensor a = random();
  arena.clear();
  arena.take(0, a);
  arena.take(1, torch::full({2, 3}, 2.0f));
  arena.settle();
  EXPECT_EQ(arena.parts()[0].begin, 0);
  EXPECT_EQ(arena.parts()[0].end, 301 * 257);
  EXPECT_EQ(arena.parts()[1].begin, 301 * 257);
  EXPECT_EQ(arena.parts()[1].end, 301 * 257 + 6);
  EXPECT_EQ(arena.whole().numel(), 301 * 257 + 6 + 2);
  EXPECT_TRUE(torch::equal(arena.whole().narrow(0, 0, 301 * 257), a.flatten().to(torch::kFloat32)));
  EXPECT_TRUE((arena.whole().narrow(0, 301 * 257, 6) == 2).all().item<bool>());
}

TEST_P(Arena, NeighboursAreOneMatrix) {
  GradientArena three({torch::empty({2, 3}), torch::empty({1, 5}), torch::empty({4, 5})}, torch::kCPU);
  const torch::Tensor below = torch::randn({4, 5}).to(GetParam());
  three.clear();
  three.take(1, torch::ones({1, 5}).to(GetParam()));
  three.take(2, below);
  const torch::Tensor both = three.stacked_gradients(1, 3);
  EXPECT_EQ(both.sizes(), (std::vector<std::int64_t>{5, 5}));
  EXPECT_TRUE((both[0] == 1).all().item<bool>());
  EXPECT_TRUE(torch::equal(both.narrow(0, 1, 4), below.to(torch::kFloat32)));
  EXPECT_EQ(both.data_ptr(), three.gradient(1).data_ptr());
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Arena, ::testing::Values(torch::kFloat32, torch::kBFloat16));

}  // namespace
}  // namespace roundtable
