// The search for scales against a plain one.
#include "quant/scale_search.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "quant/fake_quant.h"
#include "tests/quant/plain_formula.h"

namespace roundtable {

inline void PrintTo(const QuantScheme& s, std::ostream* out) {
  *out << "W" << s.bits << " group " << s.group_size << (s.symmetric ? " sym" : " asym")
       << (s.full_range ? " full" : " restricted");
}

namespace {

// The search written plainly, in fp64: groups [N, width] and what each of their weights counts.
struct PlainSearch {
  PlainSearch(const torch::Tensor& weight, const QuantScheme& wanted, const torch::Tensor& inputs) : scheme(wanted) {
    w = testing::group_and_pad(weight.to(torch::kFloat64), scheme);
    const torch::Tensor rows = inputs.to(torch::kFloat64).unsqueeze(0).expand({weight.size(0), -1});
    importance = testing::group_and_pad(rows, scheme);
    low = std::get<0>(w.min(1)).clamp_max(0);
    high = std::get<0>(w.max(1)).clamp_min(0);
  }

  // Of rounding to nearest with levels s * [first, last], per group.
  torch::Tensor error(const torch::Tensor& s, const torch::Tensor& first, const torch::Tensor& last) const {
    const torch::Tensor safe = torch::where(s == 0, 1.0, s).unsqueeze(1);
    const torch::Tensor q = torch::minimum(torch::maximum((w / safe).round(), first), last);
    return ((s.unsqueeze(1) * q - w).square() * importance).sum(1);
  }
  torch::Tensor error(const torch::Tensor& s, double zero) const {
    const auto number = [&](double x) { return torch::full({}, x, w.options()); };
    const double top = (1 << scheme.bits) - 1;
    return error(s, number(-zero), number(top - zero));
  }

  torch::Tensor least_symmetric() const {
    const double levels = 1 << (scheme.bits - 1);
    const double base = scheme.full_range ? levels : levels - 0.5;
    torch::Tensor m = torch::maximum(-low, high);
    if (scheme.full_range) m = torch::where(high < -low, m, -m);
    torch::Tensor least = error(m / base, levels);
    for (int k = -100; k <= 100; ++k) {
      if (scheme.bits == 2 && std::abs(k) > 90) continue;
      least = torch::minimum(least, error(m / (base - (scheme.bits == 2 ? 0.01 : 0.0075 * base) * k), levels));
    }
    return least;
  }

  torch::Tensor least_asymmetric() const {
    const double top = (1 << scheme.bits) - 1;
    const torch::Tensor widest = ((high - low) / top).clamp_min(least_scale(scheme));
    const double start = scheme.bits >= 4 ? 0.25 : (scheme.bits == 3 ? 0.15 : 0.05);
    const auto of_fraction = [&](const torch::Tensor& f) {
      std::vector<torch::Tensor> errors;
      for (int z = scheme.min_zero_point; z <= top; ++z) errors.push_back(error(widest * f, z));
      return std::get<0>(torch::stack(errors).min(0));
    };
    const torch::Tensor fractions = torch::logspace(std::log10(start), 0, 64, 10, w.options());
    std::vector<torch::Tensor> coarse;
    for (int i = 0; i < 64; ++i) coarse.push_back(of_fraction(fractions[i]));
    auto [least, best] = torch::stack(coarse).min(0);
    const torch::Tensor below = fractions.index_select(0, (best - 1).clamp_min(0));
    const torch::Tensor above = fractions.index_select(0, (best + 1).clamp_max(63));
    for (int i = 1; i <= 32; ++i) {
      const double part = i / 33.0;
      least = torch::minimum(least, of_fraction(below * (1 - part) + above * part));
    }
    return least;
  }

  // With the grid that a search has left.
  torch::Tensor error(const RoundingParameters& p) const {
    const torch::Tensor first = p.wmin.flatten().to(torch::kFloat64), last = p.wmax.flatten().to(torch::kFloat64);
    const double top = (1 << scheme.bits) - 1, levels = 1 << (scheme.bits - 1);
    if (!scheme.symmetric) {
      const torch::Tensor s = (last - first) / top;
      torch::Tensor zero = torch::where(s == 0, 0.0, (-first / s).round()).clamp_min(scheme.min_zero_point);
      zero = zero.unsqueeze(1);
      return error(s, -zero, top - zero);
    }
    if (!scheme.full_range) return error(last / (levels - 0.5), levels);
    return error(torch::where(first < 0, -first, -last) / levels, levels);
  }

  QuantScheme scheme;
  torch::Tensor w, importance, low, high;
};

class ScaleSearch : public ::testing::TestWithParam<QuantScheme> {
 protected:
  static torch::Tensor every_kind_of_row(std::int64_t columns) {
    torch::manual_seed(7);
    torch::Tensor weight = torch::randn({12, columns});
    weight[1].fill_(0);
    weight[2].fill_(0.25);
    weight[3].abs_();
    weight[4].abs_().neg_();
    weight[5][0] = 40;  // an outlier
    weight[7][1] = 3;
    weight[7][0] = -3;  // a tie of max and -min
    weight[7].clamp_(-3, 3);
    return weight;
  }
};

std::vector<QuantScheme> searched_schemes() {
  std::vector<QuantScheme> schemes;
  for (const int bits : {2, 3, 4, 8}) {
    for (const std::int64_t group : {32, 64, -1, 40}) {  // 64 and 40 do not divide 96
      schemes.push_back({bits, group, true, true});
      schemes.push_back({bits, group, true, false});
      schemes.push_back({bits, group, false, true});
    }
  }
  return schemes;
}

INSTANTIATE_TEST_SUITE_P(Schemes, ScaleSearch, ::testing::ValuesIn(searched_schemes()));

TEST_P(ScaleSearch, FindsTheLeastError) {
  QuantScheme own = GetParam();
  own.fp16_scale = false;
  own.min_zero_point = own.group_size == 40 ? 1 : 0;
  for (const auto dtype : {torch::kBFloat16, torch::kFloat32}) {
    const torch::Tensor weight = every_kind_of_row(dtype == torch::kFloat32 ? 96 : 100).to(dtype);
    const torch::Tensor importance = torch::rand({weight.size(1)}).square() * 100;
    RoundingParameters parameters = make_rounding_parameters(weight, own);
    const PlainSearch plain(weight, own, importance);
    const torch::Tensor before = plain.error(parameters);
    const torch::Tensor slack = 1e-8 * (plain.w.square() * plain.importance).sum(1);  // of scales in fp32
    search_scales(weight, parameters, own, importance);
    EXPECT_TRUE(parameters.min_scale.eq(1).all().item<bool>() && parameters.max_scale.eq(1).all().item<bool>());
    const torch::Tensor found = plain.error(parameters);
    // Above 4 bits not all zero points are tried; the plain search for them is slow.
    if (own.symmetric || (own.bits <= 4 && (own.group_size == 32 || own.group_size == 40))) {
      const torch::Tensor least = own.symmetric ? plain.least_symmetric() : plain.least_asymmetric();
      EXPECT_TRUE(torch::all(found <= least * (1 + 1e-4) + slack).item<bool>()) << (found / least).max();
    }
    if (own.symmetric) continue;
    EXPECT_TRUE(torch::all(found <= before * (1 + 1e-4) + slack).item<bool>()) << (found / before).max();
    EXPECT_LT(found.sum().item<double>(), before.sum().item<double>());
  }
}

// Tuning starts at the scale and the zero point that were found, in fp16 too.
TEST_P(ScaleSearch, TheFoundRangeHoldsTheFormatsZeroPoint) {
  const torch::Tensor weight = every_kind_of_row(96);
  QuantScheme own = GetParam();
  own.min_zero_point = 1;
  RoundingParameters parameters = make_rounding_parameters(weight, own);
  search_scales(weight, parameters, own, torch::ones({weight.size(1)}));
  const QuantizedWeight quantized = quantize(weight, parameters, own);
  const double top = (1 << own.bits) - 1;
  const torch::Tensor zero = quantized.zero_point.to(torch::kFloat32);
  if (own.symmetric) {
    EXPECT_TRUE(zero.eq(1 << (own.bits - 1)).all().item<bool>());
    EXPECT_TRUE(torch::all((parameters.wmin == 0) | (parameters.wmax == 0)).item<bool>());
  } else {
    EXPECT_GE(zero.min().item<float>(), 1);
    EXPECT_TRUE(torch::allclose(quantized.scale * -zero, parameters.wmin, 1e-6, 0));
    EXPECT_TRUE(torch::allclose(quantized.scale * (top - zero), parameters.wmax, 1e-6, 0));
  }
}

class Float4Search : public ::testing::TestWithParam<WeightType> {};

INSTANTIATE_TEST_SUITE_P(All, Float4Search, ::testing::Values(WeightType::kMxFp4, WeightType::kNvFp4));

TEST_P(Float4Search, FindsTheLeastError) {
  torch::manual_seed(3);
  QuantScheme scheme;
  scheme.type = GetParam();
  scheme.group_size = GetParam() == WeightType::kMxFp4 ? 32 : 16;
  torch::Tensor spread = torch::randn({8, 96}).mul(torch::logspace(-3, 1, 8).unsqueeze(1));
  spread[4].fill_(0);
  scheme = with_global_scale(scheme, {spread});
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const torch::Tensor weight = spread.to(dtype);
    const torch::Tensor importance = torch::rand({weight.size(1)});
    const auto errors = [&](const RoundingParameters& parameters) {
      torch::Tensor rounded = torch::empty(weight.sizes(), torch::kFloat32);
      fake_quantize(weight, parameters, scheme, rounded);
      const torch::Tensor squares = (rounded.to(torch::kFloat64) - weight.to(torch::kFloat64)).square() * importance;
      return squares.view({8, -1, scheme.group_size}).sum(2);
    };
    const bool is_mx = GetParam() == WeightType::kMxFp4;
    RoundingParameters found = make_rounding_parameters(weight, scheme);
    torch::Tensor least = errors(found);
    for (int percent = 50; percent <= (is_mx ? 200 : 151); percent += is_mx ? 50 : 1) {
      if (is_mx && percent == 150) continue;
      RoundingParameters tried = make_rounding_parameters(weight, scheme);
      tried.max_scale.fill_(static_cast<float>(percent / 100.0));
      least = torch::minimum(least, errors(tried));
    }
    const RoundingParameters start = make_rounding_parameters(weight, scheme);
    search_scales(weight, found, scheme, importance);
    EXPECT_TRUE(torch::all(errors(found) <= least * (1 + 1e-5)).item<bool>());
    EXPECT_LT(found.wmax.lt(start.wmax).sum().item<int>(), found.wmax.numel());
    if (!is_mx) EXPECT_GT(found.wmax.lt(start.wmax).sum().item<int>(), 0);  // half of mx_fp's scale clips too much
    EXPECT_GT(found.wmax.gt(start.wmax).sum().item<int>(), 0);  // above the largest weight too
  }
}

// W2: the levels of scale s are -2 s, -s, 0 and s; 1 leads, so s = -1 / D and 2 / D and 1 / D are on the positive side.
TEST(SearchScales, ByHand) {
  const QuantScheme scheme{2, 4, true, true, false, 0};
  const torch::Tensor weight = torch::tensor({{1.0f, 0.3f, 0.3f, 0.3f}});
  const auto reach_for = [&](const torch::Tensor& importance) {
    RoundingParameters parameters = make_rounding_parameters(weight, scheme);
    search_scales(weight, parameters, scheme, importance);
    EXPECT_EQ(parameters.wmin.item<float>(), 0);
    return parameters.wmax.item<float>();
  };
  EXPECT_EQ(reach_for(torch::tensor({1.0f, 0.0f, 0.0f, 0.0f})), 1.0f);
  EXPECT_FLOAT_EQ(reach_for(torch::tensor({0.0f, 1.0f, 1.0f, 1.0f})), 2 / 2.9f);  // 1 / D nearest to 0.3
  // (1 - c)^2 + 3 (0.3 - c/2)^2 is least at c = 29/35, where D = 2 / c = 2.414
  EXPECT_FLOAT_EQ(reach_for(torch::ones({4})), 2 / 2.41f);
  EXPECT_EQ(reach_for(torch::zeros({4})), 1.0f);  // no token came: rounding to nearest
}

// W2, asymmetric: 1, 2 and 3 are levels of s = 1 and z = 0, and only they count.
TEST(SearchScales, ZeroPointByHand) {
  const QuantScheme scheme{2, 4, false, true, true, 0};
  const torch::Tensor weight = torch::tensor({{-0.5f, 1.0f, 2.0f, 3.0f}});
  RoundingParameters parameters = make_rounding_parameters(weight, scheme);
  search_scales(weight, parameters, scheme, torch::tensor({0.0f, 1.0f, 1.0f, 1.0f}));
  const QuantizedWeight found = quantize(weight, parameters, scheme);
  EXPECT_EQ(found.zero_point.item<int>(), 0);
  EXPECT_NEAR(found.scale.item<float>(), 1.0f, 2e-3);
  EXPECT_TRUE(torch::equal(found.q, torch::tensor({{0, 1, 2, 3}}, torch::kUInt8)));
  // No token came: rounding to nearest, with s = 3.5 / 3 and z = round(0.43).
  parameters = make_rounding_parameters(weight, scheme);
  search_scales(weight, parameters, scheme, torch::zeros({4}));
  const QuantizedWeight nearest = quantize(weight, parameters, scheme);
  const QuantizedWeight plain = round_to_nearest(weight, scheme);
  EXPECT_TRUE(torch::equal(nearest.q, plain.q) && torch::equal(nearest.scale, plain.scale));
}

}  // namespace
}  // namespace roundtable
