// The loss without the largest errors of each sample.
#include "tune/losses/mse.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <optional>

namespace roundtable {
namespace {

constexpr double kErrorScale = 0.25;

// Output, target and which rows of it; some channels have errors far above the others.
struct ErrorProblem {
  explicit ErrorProblem(torch::ScalarType dtype) {
    torch::manual_seed(3);
    target = torch::randn({5, 77, 131}).to(dtype);
    y = target.index_select(0, rows) + torch::randn({3, 77, 131}).to(dtype);
    y.select(2, 7).mul_(30);
  }

  torch::Tensor rows = torch::tensor({4, 0, 2});
  torch::Tensor target, y;
};

// The gradient over 2 * kErrorScale in fp32.
torch::Tensor plain_difference(const ErrorProblem& p, std::int64_t left_out) {
  torch::Tensor difference = p.y.to(torch::kFloat32) - p.target.index_select(0, p.rows).to(torch::kFloat32);
  // Of equal errors the first is left out: a stable order of the negative ones.
  const torch::Tensor order = std::get<1>(difference.flatten(1).abs().neg().sort(std::optional<bool>(true), 1, false));
  difference.flatten(1).scatter_(1, order.narrow(1, 0, left_out), 0);
  return difference;
}

TEST(SquaredError, LeavesTheLargestErrorsOfEachSampleOut) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const ErrorProblem p(dtype);
    const std::int64_t count = outlier_count(77 * 131, 0.01);
    EXPECT_EQ(count, 100);
    const torch::Tensor difference = plain_difference(p, count);
    const SquaredError got = squared_error(p.y, p.target, p.rows, kErrorScale, 0.01);
    EXPECT_TRUE(torch::equal(got.gradient, (2 * kErrorScale * difference).to(dtype)));
    const double loss = kErrorScale * difference.to(torch::kFloat64).square().sum().item<double>();
    EXPECT_NEAR(got.loss.item<double>(), loss, 1e-5 * loss);
    const double whole = squared_error(p.y, p.target, p.rows, kErrorScale).loss.item<double>();
    EXPECT_LT(got.loss.item<double>(), 0.5 * whole);
  }
}

TEST(SquaredError, OfEqualErrorsTheFirstAreLeftOut) {
  const torch::Tensor target = torch::zeros({1, 300});
  torch::Tensor y = torch::ones({1, 300});
  y[0][200] = -2;
  const SquaredError got = squared_error(y, target, torch::tensor({0}), 0.5, 0.01);
  const torch::Tensor left_out = got.gradient.eq(0).nonzero().select(1, 1);
  EXPECT_TRUE(torch::equal(left_out, torch::tensor({0, 1, 200})));
  EXPECT_EQ(got.loss.item<double>(), 0.5 * 297);
}

TEST(SquaredError, ASmallRowLosesOneElementAndAnEqualOneNothing) {
  EXPECT_EQ(outlier_count(10, 0.001), 1);
  EXPECT_EQ(outlier_count(10, 0), 0);
  const torch::Tensor y = torch::tensor({{1.0f, -3.0f, 2.0f}});
  EXPECT_EQ(squared_error(y, torch::zeros({1, 3}), torch::tensor({0}), 1, 0.001).loss.item<double>(), 5);
  EXPECT_EQ(squared_error(y, y, torch::tensor({0}), 1, 0.001).loss.item<double>(), 0);
}

TEST(SquaredError, AnErrorThatIsNotANumberStaysInTheLoss) {
  const torch::Tensor y = torch::tensor({{1.0f, NAN, 2.0f, 5.0f}});
  EXPECT_TRUE(std::isnan(squared_error(y, torch::zeros({1, 4}), torch::tensor({0}), 1, 0.001).loss.item<double>()));
}

TEST(SquaredError, TheNumberOfThreadsChangesNothing) {
  const ErrorProblem p(torch::kBFloat16);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const SquaredError one = squared_error(p.y, p.target, p.rows, kErrorScale, 0.01);
  at::set_num_threads(3);
  const SquaredError three = squared_error(p.y, p.target, p.rows, kErrorScale, 0.01);
  at::set_num_threads(threads);
  EXPECT_EQ(one.loss.item<double>(), three.loss.item<double>());
  EXPECT_TRUE(torch::equal(one.gradient, three.gradient));
}

}  // namespace
}  // namespace roundtable
