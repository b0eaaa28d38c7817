// Samplers: the same samples whatever the grid, each stratum once, each sample once a round.
#include "data/sampler.h"

#include <gtest/gtest.h>

#include <set>

namespace roundtable {
namespace {

TEST(Sampler, StrataGiveOneSampleEach) {
  const Sampler sampler(SamplerKind::kStrata, 37, 8, 42, 3);  // 37 is not a multiple of 8
  for (int step = 0; step < 50; ++step) {
    const auto samples = sampler.step(step);
    ASSERT_EQ(samples.size(), 8u);
    for (std::int64_t k = 0; k < 8; ++k) EXPECT_TRUE(part_of(37, 8, k).contains(samples[k])) << step << " " << k;
  }
}

TEST(Sampler, ARoundSeesEverySampleOfAStratumOnce) {
  const Sampler sampler(SamplerKind::kStrata, 32, 4, 42, 0);
  for (int round = 0; round < 3; ++round) {
    std::set<std::int64_t> seen;
    for (int step = 0; step < 8; ++step) {
      for (const auto sample : sampler.step(round * 8 + step)) seen.insert(sample);
    }
    EXPECT_EQ(seen.size(), 32u);
  }
}

TEST(Sampler, RandTakesDistinctSamples) {
  const Sampler sampler(SamplerKind::kRand, 20, 8, 42, 0);
  std::set<std::int64_t> ever;
  for (int step = 0; step < 40; ++step) {
    const auto samples = sampler.step(step);
    EXPECT_EQ(std::set<std::int64_t>(samples.begin(), samples.end()).size(), 8u);
    ever.insert(samples.begin(), samples.end());
  }
  EXPECT_EQ(ever.size(), 20u);
}

TEST(Sampler, DependsOnSeedBlockAndStepAlone) {
  const Sampler a(SamplerKind::kStrata, 64, 8, 42, 5);
  EXPECT_EQ(a.step(7), Sampler(SamplerKind::kStrata, 64, 8, 42, 5).step(7));
  EXPECT_NE(a.step(7), Sampler(SamplerKind::kStrata, 64, 8, 43, 5).step(7));
  EXPECT_NE(a.step(7), Sampler(SamplerKind::kStrata, 64, 8, 42, 6).step(7));
  EXPECT_NE(a.step(7), a.step(8));
}

TEST(Sampler, ShardsOwnWholeStrata) {
  for (const std::int64_t shards : {1, 2, 4, 8}) {
    std::int64_t next = 0;
    for (std::int64_t shard = 0; shard < shards; ++shard) {
      const SampleRange range = shard_samples(37, 8, shards, shard);
      EXPECT_EQ(range.begin, next);
      next = range.end;
      for (std::int64_t k = shard * 8 / shards; k < (shard + 1) * 8 / shards; ++k) {
        EXPECT_TRUE(range.contains(part_of(37, 8, k).begin));
        EXPECT_TRUE(range.contains(part_of(37, 8, k).end - 1));
      }
    }
    EXPECT_EQ(next, 37);
  }
}

}  // namespace
}  // namespace roundtable
