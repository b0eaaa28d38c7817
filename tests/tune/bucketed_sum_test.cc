// Buckets: which leave when, what the sums are, and what they cost. From two ranks on.
#include "tune/gradients/bucketed_sum.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <chrono>
#include <thread>

#include "tests/mpi_main.h"

namespace roundtable {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::world;

// Two ranks, of which the other has nothing to add.
class PairCommunicator : public HostCommunicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 2; }
  void broadcast(HostSpan, int) override {}
  void barrier() override {}
  void exchange(HostSpan, HostSpan, int) override {}
  void all_to_all(HostSpan, const std::vector<std::int64_t>&, HostSpan, const std::vector<std::int64_t>&) override {}

 protected:
  void gather_bytes(const void*, std::int64_t, void*) override {}
};

// Notes where each sum that is started begins, and its length.
class NotingCommunicator final : public PairCommunicator {
 public:
  explicit NotingCommunicator(const torch::Tensor& arena) : arena_(arena) {}

  std::unique_ptr<PendingSum> start_all_reduce_sum(HostSpan data) override {
    const bool in_arena = data.type == ElementType::kF32;
    started.emplace_back(in_arena ? static_cast<float*>(data.data) - arena_.data_ptr<float>() : -1, data.count);
    return SelfCommunicator().start_all_reduce_sum(data);
  }

  std::vector<std::pair<std::int64_t, std::int64_t>> started;

 private:
  torch::Tensor arena_;
};

// Its sums are done once somebody has waited for them, which takes a while.
class SlowCommunicator final : public PairCommunicator {
 public:
  static constexpr auto kWait = std::chrono::milliseconds(20);

  std::unique_ptr<PendingSum> start_all_reduce_sum(HostSpan) override { return std::make_unique<Sum>(); }

 private:
  struct Sum final : PendingSum {
    bool poll() override { return done; }
    void wait() override {
      std::this_thread::sleep_for(kWait);
      done = true;
    }
    bool done = false;
  };
};

// Layers of 4, 2, 3 and 5 weights, and buckets of at least 5: {3}, {2, 1}, {0}.
const std::vector<ArenaPart> kLayers{{0, 4}, {4, 6}, {6, 9}, {9, 14}};
constexpr std::int64_t kLength = 16;
constexpr std::int64_t kFiveWeights = 20;

TEST(Buckets, LeaveAsSoonAsTheirLayersAreWhole) {
  const torch::Tensor arena = torch::ones({kLength});
  NotingCommunicator pair(arena);
  BucketedSum sum(arena, kLayers, ElementType::kF32, pair, kFiveWeights);
  for (int step = 0; step < 2; ++step) {
    pair.started.clear();
    sum.whole(3);  // an earlier micro-batch
    EXPECT_THAT(pair.started, IsEmpty());
    sum.begin();
    sum.whole(3);
    EXPECT_THAT(pair.started, ElementsAre(std::pair(9, 7)));  // with the tail
    sum.whole(1);
    EXPECT_THAT(pair.started, ElementsAre(std::pair(9, 7)));
    sum.whole(2);
    EXPECT_THAT(pair.started, ElementsAre(std::pair(9, 7), std::pair(4, 5)));
    sum.finish();  // layer 0 saw no token
    EXPECT_THAT(pair.started, ElementsAre(std::pair(9, 7), std::pair(4, 5), std::pair(0, 4)));
  }
  EXPECT_EQ(sum.figures().bytes, 2 * kLength * 4);
}

// Another rank may see the layers in this order; sums must pair up all the same.
TEST(Buckets, KeepTheirOrder) {
  const torch::Tensor arena = torch::ones({kLength});
  NotingCommunicator pair(arena);
  BucketedSum sum(arena, kLayers, ElementType::kF32, pair, kFiveWeights);
  sum.begin();
  for (const std::size_t layer : {0, 1, 2}) sum.whole(layer);
  EXPECT_THAT(pair.started, IsEmpty());
  sum.whole(3);
  EXPECT_THAT(pair.started, ElementsAre(std::pair(9, 7), std::pair(4, 5), std::pair(0, 4)));
  sum.finish();
}

TEST(Buckets, TheTailStaysInFp32) {
  const torch::Tensor arena = torch::ones({kLength});
  NotingCommunicator pair(arena);
  BucketedSum sum(arena, kLayers, ElementType::kBF16, pair, kFiveWeights);
  sum.begin();
  sum.finish();
  EXPECT_THAT(pair.started, ElementsAre(std::pair(-1, 5), std::pair(14, 2), std::pair(-1, 5), std::pair(-1, 4)));
}

// As where layers of experts lie in front of the others (4, then 2), and come second of three in the forward pass.
TEST(Buckets, FollowTheBackwardPassWhereverTheLayersLie) {
  const torch::Tensor arena = torch::ones({kLength});
  NotingCommunicator pair(arena);
  BucketedSum sum(arena, {{6, 9}, {0, 4}, {4, 6}, {9, 14}}, ElementType::kF32, pair, 4 * kFiveWeights);
  for (int step = 0; step < 2; ++step) {
    pair.started.clear();
    sum.begin();
    sum.whole(3);
    EXPECT_THAT(pair.started, ElementsAre(std::pair(9, 7)));  // with the tail
    sum.whole(2);
    EXPECT_THAT(pair.started, ElementsAre(std::pair(9, 7)));
    sum.whole(1);
    EXPECT_THAT(pair.started, ElementsAre(std::pair(9, 7), std::pair(0, 6)));
    sum.whole(0);
    EXPECT_THAT(pair.started, ElementsAre(std::pair(9, 7), std::pair(0, 6), std::pair(6, 3)));
    sum.finish();
  }
  EXPECT_EQ(sum.figures().bytes, 2 * kLength * 4);
}

// What is not named is not summed; the tail is, once.
TEST(Buckets, TheTailGoesByItselfWhereItIsNoNeighbour) {
  const torch::Tensor arena = torch::ones({kLength});
  NotingCommunicator pair(arena);
  BucketedSum sum(arena, {{4, 6}, {0, 4}}, ElementType::kF32, pair, kFiveWeights);
  sum.begin();
  sum.whole(1);
  EXPECT_THAT(pair.started, ElementsAre(std::pair(0, 4), std::pair(14, 2)));
  sum.finish();
  EXPECT_THAT(pair.started, ElementsAre(std::pair(0, 4), std::pair(14, 2), std::pair(4, 2)));
}

TEST(Buckets, MayHoldTheTailAlone) {
  const torch::Tensor arena = torch::ones({kLength});
  for (const ElementType type : {ElementType::kF32, ElementType::kBF16}) {
    NotingCommunicator pair(arena);
    BucketedSum sum(arena, {}, type, pair, kFiveWeights);
    sum.begin();
    sum.finish();
    EXPECT_EQ(pair.started.back(), (std::pair<std::int64_t, std::int64_t>(14, 2)));
    EXPECT_EQ(sum.figures().bytes, 8);
  }
}

// A sum that is on its way while the rank works costs only what the rank waits for in the end.
TEST(Buckets, WorkBesideASumIsNotWaiting) {
  const torch::Tensor arena = torch::ones({kLength});
  SlowCommunicator pair;
  BucketedSum sum(arena, kLayers, ElementType::kF32, pair, kFiveWeights);
  constexpr auto kWork = std::chrono::milliseconds(30);
  sum.begin();
  std::this_thread::sleep_for(kWork);  // no sum is on its way yet
  const Stopwatch since_start;
  sum.whole(3);
  std::this_thread::sleep_for(kWork);
  sum.finish();
  const double whole = since_start.seconds();
  const auto seconds = [](auto time) { return std::chrono::duration<double>(time).count(); };
  const ReductionFigures& figures = sum.figures();
  EXPECT_GE(figures.seconds_waiting, seconds(3 * SlowCommunicator::kWait));  // three buckets
  EXPECT_GE(figures.seconds_under_way - figures.seconds_waiting, seconds(kWork));
  EXPECT_LE(figures.seconds_under_way, whole);
}

// The arena of a rank, and what each transport makes of the arenas of all.
torch::Tensor arena_of(int rank) {
  torch::manual_seed(rank);
  return torch::randn({kLength});
}

torch::Tensor summed(ElementType transport) {
  torch::Tensor arena = arena_of(world().rank());
  BucketedSum sum(arena, kLayers, transport, world(), kFiveWeights);
  sum.begin();
  for (const std::size_t layer : {3, 2, 1, 0}) sum.whole(layer);
  sum.finish();
  return arena;
}

TEST(Buckets, AddUpOverTheRanks) {
  torch::Tensor expected = torch::zeros({kLength});
  torch::Tensor votes = torch::zeros({kLength});
  for (int rank = 0; rank < world().size(); ++rank) {
    expected += arena_of(rank);
    votes += arena_of(rank).sign();
  }
  EXPECT_TRUE(torch::allclose(summed(ElementType::kF32), expected, 1e-6, 1e-6));
  EXPECT_TRUE(torch::allclose(summed(ElementType::kBF16), expected, 2e-2, 2e-2));
  const torch::Tensor voted = summed(ElementType::kI8);
  EXPECT_TRUE(torch::allclose(voted.narrow(0, kLength - 2, 2), expected.narrow(0, kLength - 2, 2), 1e-6, 1e-6));
  EXPECT_TRUE(torch::equal(voted.narrow(0, 0, kLength - 2), votes.narrow(0, 0, kLength - 2)));
}

}  // namespace
}  // namespace roundtable
