// Which tokens go to experts that too few have chosen.
#include "graph/experts/more_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <set>

namespace roundtable {
namespace {

using ::testing::ElementsAre;

constexpr std::int64_t kExperts = 4;

std::vector<std::int64_t> list(const torch::Tensor& tensor) {
  const torch::Tensor flat = tensor.contiguous();
  return {flat.const_data_ptr<std::int64_t>(), flat.const_data_ptr<std::int64_t>() + flat.numel()};
}

// Tokens of one sample that all have chosen these experts.
torch::Tensor all_choose(const std::vector<std::int64_t>& experts, std::int64_t tokens) {
  return torch::tensor(experts, torch::kInt64).repeat({tokens, 1});
}

TEST(MoreTokens, StandInThePlaceOfTheLastChoiceAtEqualDistances) {
  const torch::Tensor index = all_choose({1, 0}, 8);
  const torch::Tensor before = index.clone();
  const torch::Tensor changed = MoreTokens({0, 0, 0, 2}, 1).choices(index, kExperts, 0);
  EXPECT_THAT(list(changed.select(1, 0)), ::testing::Each(1));
  EXPECT_THAT(list(changed.select(1, 1)), ElementsAre(3, 0, 0, 0, 3, 0, 0, 0));
  EXPECT_TRUE(torch::equal(index, before));
}

// It has seen them: they would count twice.
TEST(MoreTokens, AnExpertsOwnTokensBecomeNobodys) {
  const torch::Tensor index = torch::tensor({3, 0, 1, 0, 0, 3, 1, 0}, torch::kInt64).view({4, 2});
  const torch::Tensor changed = MoreTokens({0, 0, 0, 2}, 1).choices(index, kExperts, 0);
  EXPECT_THAT(list(changed), ElementsAre(kExperts, 0, 1, 3, 0, kExperts, 1, 3));
}

TEST(MoreTokens, SeveralExpertsShareThePlacesOfAToken) {
  const torch::Tensor changed = MoreTokens({0, 0, 2, 2}, 1).choices(all_choose({1, 0}, 2), kExperts, 0);
  EXPECT_THAT(list(changed), ElementsAre(3, 2, 3, 2));
  // There are four places for eight: none is given twice.
  const torch::Tensor full = MoreTokens({2, 2, 2, 2}, 1).choices(all_choose({1, 0}, 2), kExperts, 0);
  EXPECT_THAT(list(full), ElementsAre(3, 2, 3, 2));
  // A token that chose an expert is no other token of it.
  const torch::Tensor none = MoreTokens({5, 0, 0, 0}, 1).choices(all_choose({1, 0}, 2), kExperts, 0);
  EXPECT_THAT(list(none), ElementsAre(1, kExperts, 1, kExperts));
}

TEST(MoreTokens, SharesOfAllSamplesAreWhatIsMissing) {
  constexpr std::int64_t kSamples = 7, kTokens = 40;
  const std::vector<std::int64_t> missing{1, 0, 100, 3};
  const MoreTokens more(missing, kSamples);
  torch::manual_seed(3);
  std::vector<std::int64_t> given(kExperts);
  std::set<std::int64_t> samples_of_few;
  for (std::int64_t sample = 0; sample < kSamples; ++sample) {
    const torch::Tensor changed = more.choices(all_choose({1}, kTokens), kExperts, sample);
    for (std::int64_t e : {0, 2, 3}) {
      const auto share = changed.eq(e).sum().item<std::int64_t>();
      const std::int64_t even = missing[static_cast<std::size_t>(e)] / kSamples;
      EXPECT_GE(share, even);
      EXPECT_LE(share, even + 1);
      given[static_cast<std::size_t>(e)] += share;
      if (e != 2 && share > 0) samples_of_few.insert(sample);
    }
    EXPECT_TRUE(more.takes_from(sample));
  }
  EXPECT_THAT(given, ElementsAre(1, 0, 100, 3));
  EXPECT_GT(samples_of_few.size(), 3u) << "few tokens of several experts are of several samples";
}

TEST(MoreTokens, SamplesThatGiveNoneAreNotRun) {
  const MoreTokens more({0, 2}, 6);
  std::int64_t taken = 0;
  for (std::int64_t sample = 0; sample < 6; ++sample) taken += more.takes_from(sample) ? 1 : 0;
  EXPECT_EQ(taken, 2);
  EXPECT_FALSE(MoreTokens({0, 0}, 6).takes_from(5));
}

}  // namespace
}  // namespace roundtable
