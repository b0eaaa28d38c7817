// Cross entropy, divergence and most likely tokens against sums in fp64, on both ways to take them.
#include "model/measures/next_token.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <limits>

namespace roundtable {
namespace {

using Compare = TokenSums (*)(const torch::Tensor&, const torch::Tensor&, const torch::Tensor&, std::vector<float>&);

struct Way {
  Compare compare;
  torch::ScalarType dtype;
};

class NextToken : public ::testing::TestWithParam<Way> {
 protected:
  static constexpr std::int64_t kPositions = 7, kVocab = 9001;  // two whole pieces, and some more

  NextToken() { torch::manual_seed(3); }
  static torch::Tensor random(double scale) { return (torch::randn({kPositions, kVocab}) * scale).to(GetParam().dtype); }
  TokenSums compare(const torch::Tensor& logits, const torch::Tensor& float_logits) {
    divergences_.clear();
    return GetParam().compare(logits, float_logits, next_, divergences_);
  }

  torch::Tensor next_ = torch::randint(kVocab, {kPositions}, torch::kInt64);
  std::vector<float> divergences_;
};

TEST_P(NextToken, IsTheSumOverTheWholeVocabulary) {
  const torch::Tensor y = random(4);
  for (const double noise : {2.0, 0.5, 0.02}) {
    const torch::Tensor x = (y + random(noise)).to(GetParam().dtype);
    const TokenSums sums = compare(x, y);
    const torch::Tensor log_q = x.to(torch::kFloat64).log_softmax(-1), log_p = y.to(torch::kFloat64).log_softmax(-1);
    const torch::Tensor wanted = (log_p.exp() * (log_p - log_q)).sum(-1);
    ASSERT_EQ(std::ssize(divergences_), kPositions);
    for (std::int64_t i = 0; i < kPositions; ++i) {
      const double divergence = wanted[i].item<double>();
      EXPECT_NEAR(divergences_[static_cast<std::size_t>(i)], divergence, 1e-5 * divergence + 1e-6);
    }
    const auto loss = [&](const torch::Tensor& logs) {
      return -logs.gather(1, next_.unsqueeze(1)).sum().item<double>();
    };
    EXPECT_NEAR(sums.loss / loss(log_q), 1, 1e-6);
    EXPECT_NEAR(sums.float_loss / loss(log_p), 1, 1e-6);
    EXPECT_EQ(sums.same_top, (log_q.argmax(-1) == log_p.argmax(-1)).sum().item<std::int64_t>());
    if (noise == 2) {
      EXPECT_LT(sums.same_top, kPositions);
    }
    if (noise == 0.5) {
      EXPECT_GT(sums.same_top, 0);
    }
    EXPECT_NEAR(compare(x, {}).loss, sums.loss, 1e-6);
    EXPECT_TRUE(divergences_.empty());
  }
}

TEST_P(NextToken, OfAModelWithItselfIsExactlyZero) {
  const torch::Tensor x = random(3);
  EXPECT_EQ(compare(x, x).same_top, kPositions);
  EXPECT_EQ(divergences_, std::vector<float>(kPositions, 0));
}

TEST_P(NextToken, ATokenThatCannotComeCountsForNothing) {
  const torch::Tensor y = random(3), x = random(3);
  next_.zero_();
  y.narrow(1, 100, 50).fill_(-std::numeric_limits<double>::infinity());
  x.narrow(1, 100, 50).fill_(-std::numeric_limits<double>::infinity());
  compare(x, y);
  for (const float divergence : divergences_) EXPECT_TRUE(std::isfinite(divergence));
  x.narrow(1, 200, 1).fill_(-std::numeric_limits<double>::infinity());  // it can come in the float model
  compare(x, y);
  for (const float divergence : divergences_) EXPECT_TRUE(std::isinf(divergence));
}

TEST_P(NextToken, TheFirstOfEqualTokensIsTheMostLikely) {
  const torch::Tensor y = random(1), x = y.clone();
  for (const std::int64_t place : {5000, 6000}) y.select(1, place).fill_(50);
  x.select(1, 5000).fill_(50);
  EXPECT_EQ(compare(x, y).same_top, kPositions);
  x.select(1, 5000).fill_(0);
  x.select(1, 6000).fill_(50);
  EXPECT_EQ(compare(x, y).same_top, 0);
}

TEST_P(NextToken, ANumberThatIsNoneIsSeen) {
  const torch::Tensor y = random(1), x = y.clone();
  x.select(0, 2).select(0, 17).fill_(std::nan(""));
  EXPECT_TRUE(std::isnan(compare(x, y).loss));
}

INSTANTIATE_TEST_SUITE_P(Ways, NextToken,
                         ::testing::Values(Way{compare_tokens, torch::kFloat32}, Way{compare_tokens, torch::kBFloat16},
                                           Way{detail::compare_by_operators, torch::kFloat32},
                                           Way{detail::compare_by_operators, torch::kBFloat16}));

}  // namespace
}  // namespace roundtable
