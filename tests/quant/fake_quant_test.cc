// Fake quantization against the plain formula and LibTorch's autograd of it.
#include "quant/fake_quant.h"

#include <c10/util/Float8_e4m3fn.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "quant/fake_quant_math.h"
#include "tests/quant/plain_formula.h"

namespace roundtable {
namespace {

using testing::PlainParameters;
using testing::plain_fake_quantize;
using testing::plain_float4;

struct Case {
  int bits;
  std::int64_t group_size;
  bool symmetric;
  bool full_range;
  bool fp16_scale;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << "W" << c.bits << " group " << c.group_size << (c.symmetric ? " sym" : " asym")
       << (c.full_range ? " full" : " restricted") << (c.fp16_scale ? " fp16" : " fp32");
}

class FakeQuant : public ::testing::TestWithParam<Case> {
 protected:
  QuantScheme scheme() const {
    const Case c = GetParam();
    return {c.bits, c.group_size, c.symmetric, c.full_range, c.fp16_scale, 0};
  }

  // A weight with every kind of row, and parameters away from their start.
  void make(torch::ScalarType dtype, std::int64_t columns = 96) {
    torch::manual_seed(7);
    weight_ = torch::randn({12, columns});
    weight_[1].fill_(0);
    weight_[2].fill_(0.25);
    weight_[3].abs_();
    weight_[4].abs_().neg_();
    weight_[5][0] = 40;       // an outlier
    weight_[6].mul_(1e-7);    // scales held at their least
    weight_[7][1] = 3;
    weight_[7][0] = -3;       // a tie of max and -min
    weight_[7].clamp_(-3, 3);
    weight_ = weight_.to(dtype);
    parameters_ = make_rounding_parameters(weight_, scheme());
    parameters_.v.uniform_(-0.6, 0.6);
    parameters_.min_scale.uniform_(0.6, 1);
    parameters_.max_scale.uniform_(0.6, 1);
    parameters_.min_scale[7].fill_(1);
    parameters_.max_scale[7].fill_(1);
  }

  PlainParameters plain() const {
    return {parameters_.v.clone().requires_grad_(), parameters_.min_scale.clone().requires_grad_(),
            parameters_.max_scale.clone().requires_grad_()};
  }

  torch::Tensor weight_;
  RoundingParameters parameters_;
};

TEST_P(FakeQuant, ForwardEqualsThePlainFormulaBitForBit) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    make(dtype);
    torch::Tensor got = torch::empty(weight_.sizes());
    fake_quantize(weight_, parameters_, scheme(), got);
    const torch::Tensor expected = plain_fake_quantize(weight_, plain(), scheme()).detach();
    EXPECT_TRUE(torch::equal(got, expected)) << (got - expected).abs().max();
    torch::Tensor rounded = torch::empty(weight_.sizes(), torch::kBFloat16);
    fake_quantize(weight_, parameters_, scheme(), rounded);
    EXPECT_TRUE(torch::equal(rounded, expected.to(torch::kBFloat16)));
  }
}

TEST_P(FakeQuant, GradientsEqualAutograd) {
  make(torch::kFloat32);
  const torch::Tensor upstream = torch::randn(weight_.sizes());
  const PlainParameters p = plain();
  plain_fake_quantize(weight_, p, scheme()).backward(upstream);
  const RoundingGradients got = rounding_gradients(weight_, parameters_, scheme(), upstream);
  EXPECT_TRUE(torch::allclose(got.v, p.v.grad(), 1e-6, 1e-7));
  // Sums over a group in another order: relative to the size of the terms.
  EXPECT_TRUE(torch::allclose(got.min_scale, p.min_scale.grad(), 1e-4, 1e-4))
      << (got.min_scale - p.min_scale.grad()).abs().max();
  EXPECT_TRUE(torch::allclose(got.max_scale, p.max_scale.grad(), 1e-4, 1e-4))
      << (got.max_scale - p.max_scale.grad()).abs().max();
}

TEST_P(FakeQuant, StepMovesEachParameterByItsGradientsSign) {
  for (const float bound : {1.0f, 2.0f}) {
    make(torch::kFloat32);
    parameters_.min_scale.mul_(bound);
    parameters_.max_scale.mul_(bound);
    const torch::Tensor upstream = torch::randn(weight_.sizes());
    const RoundingGradients gradients = rounding_gradients(weight_, parameters_, scheme(), upstream);
    const torch::Tensor v = parameters_.v - 0.05 * gradients.v.sign();
    const torch::Tensor low = (parameters_.min_scale - 0.02 * gradients.min_scale.sign()).clamp(0, bound);
    const torch::Tensor high = (parameters_.max_scale - 0.02 * gradients.max_scale.sign()).clamp(0, bound);
    sign_step(weight_, parameters_, scheme(), upstream, {0.05f, 0.02f, bound});
    EXPECT_TRUE(torch::allclose(parameters_.v, v, 1e-6, 1e-7));
    EXPECT_TRUE(torch::allclose(parameters_.min_scale, low, 1e-6, 1e-7));
    EXPECT_TRUE(torch::allclose(parameters_.max_scale, high, 1e-6, 1e-7));
  }
}

TEST_P(FakeQuant, IntegersStayInRangeAndDequantizeToTheSameBits) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    make(dtype);
    const QuantizedWeight quantized = quantize(weight_, parameters_, scheme());
    EXPECT_LE(quantized.q.max().item<int>(), (1 << scheme().bits) - 1);
    torch::Tensor expected = torch::empty(weight_.sizes(), dtype);
    fake_quantize(weight_, parameters_, scheme(), expected);
    EXPECT_TRUE(torch::equal(dequantize(quantized, dtype), expected));
  }
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const int bits : {2, 3, 4, 8}) {
    for (const std::int64_t group : {32, 64, 96, 128, -1, 40}) {  // 64 and 40 do not divide 96; 128 is beyond it
      cases.push_back({bits, group, true, true, true});
      cases.push_back({bits, group, true, false, true});
      cases.push_back({bits, group, false, true, true});
    }
  }
  cases.push_back({4, 32, true, true, false});
  cases.push_back({4, 32, false, true, false});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Schemes, FakeQuant, ::testing::ValuesIn(all_cases()));

// Against auto-round's own functions these formulas are compared in tests/peer/formula_test.py.
class FakeQuantFloat4 : public ::testing::TestWithParam<WeightType> {
 protected:
  FakeQuantFloat4() {
    torch::manual_seed(3);
    weight_ = torch::randn({8, 96}).mul(torch::logspace(-3, 1, 8).unsqueeze(1));
    weight_[4].fill_(0);
    scheme_.type = GetParam();
    scheme_.group_size = GetParam() == WeightType::kMxFp4 ? 32 : 16;
    scheme_ = with_global_scale(scheme_, {weight_});
    parameters_ = make_rounding_parameters(weight_, scheme_);
    parameters_.v.uniform_(-0.6, 0.6);
    parameters_.max_scale.uniform_(0.6, 1);
  }

  // dL/dp by autograd of the plain formula.
  PlainParameters plain_gradients(const torch::Tensor& upstream) const {
    const torch::Tensor v = parameters_.v.clone().requires_grad_();
    const torch::Tensor max_scale = parameters_.max_scale.clone().requires_grad_();
    plain_float4(weight_, v, max_scale, scheme_).backward(upstream);
    return {v.grad(), torch::zeros_like(max_scale), max_scale.grad()};
  }

  torch::Tensor weight_;
  QuantScheme scheme_;
  RoundingParameters parameters_;
};

TEST_P(FakeQuantFloat4, BitsDequantizeToWhatWasTuned) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const torch::Tensor weight = weight_.to(dtype);
    torch::Tensor expected = torch::empty(weight.sizes(), dtype);
    fake_quantize(weight, parameters_, scheme_, expected);
    EXPECT_TRUE(torch::equal(dequantize(quantize(weight, parameters_, scheme_), dtype), expected));
    EXPECT_LT((expected - weight).norm().item<float>(), 0.25f * weight.norm().item<float>());
    EXPECT_EQ(expected[4].abs().max().item<float>() == 0, GetParam() == WeightType::kNvFp4);  // mx_fp has no scale 0
  }
}

TEST_P(FakeQuantFloat4, ValuesAndGradientsEqualThePlainFormulas) {
  torch::Tensor got = torch::empty(weight_.sizes());
  fake_quantize(weight_, parameters_, scheme_, got);
  const torch::Tensor expected = plain_float4(weight_, parameters_.v, parameters_.max_scale, scheme_);
  EXPECT_TRUE(torch::allclose(got, expected, 1e-6, 1e-9)) << (got - expected).abs().max();
  const torch::Tensor upstream = torch::randn(weight_.sizes());
  const PlainParameters truth = plain_gradients(upstream);
  const RoundingGradients gradients = rounding_gradients(weight_, parameters_, scheme_, upstream);
  EXPECT_TRUE(torch::allclose(gradients.v, truth.v, 1e-5, 1e-9)) << (gradients.v - truth.v).abs().max();
  EXPECT_TRUE(torch::allclose(gradients.max_scale, truth.max_scale, 1e-4, 1e-5))
      << (gradients.max_scale - truth.max_scale).abs().max();
  EXPECT_GT(truth.v.eq(0).sum().item<int>(), 0);  // beyond the clamp, or the test shows less
}

TEST_P(FakeQuantFloat4, StepMovesEachParameterByItsGradientsSign) {
  const torch::Tensor upstream = torch::randn(weight_.sizes());
  const PlainParameters gradients = plain_gradients(upstream);
  const torch::Tensor v = parameters_.v - 0.05 * gradients.v.sign();
  const torch::Tensor high = (parameters_.max_scale - 0.02 * gradients.max_scale.sign()).clamp(0, 1);
  sign_step(weight_, parameters_, scheme_, upstream, {0.05f, 0.02f});
  EXPECT_TRUE(torch::allclose(parameters_.v, v, 1e-6, 1e-7));
  EXPECT_TRUE(torch::allclose(parameters_.max_scale, high, 1e-6, 1e-7));
}

TEST_P(FakeQuantFloat4, RoundsToTheNearestLevelByHand) {
  // The largest is 6, so that the scale is 1. Halves go to the level whose last bit is 0.
  torch::Tensor row = torch::zeros({1, scheme_.group_size});
  const std::vector<float> weights = {6, -5.1f, 5, -3.5f, 2.5f, -1.75f, 0.75f, 0.25f, -0.2f, 0.3f};
  const std::vector<float> levels = {6, -6, 4, -4, 2, -2, 1, 0, 0, 0.5f};
  for (std::size_t i = 0; i < weights.size(); ++i) row[0][static_cast<std::int64_t>(i)] = weights[i];
  QuantScheme scheme = scheme_;
  scheme.global_scale = 0;
  const QuantizedWeight quantized = round_to_nearest(row, scheme);
  EXPECT_EQ(quantized.scale.max().item<float>(), 1);
  const torch::Tensor got = dequantize(quantized, torch::kFloat32);
  for (std::size_t i = 0; i < levels.size(); ++i) {
    EXPECT_EQ(got[0][static_cast<std::int64_t>(i)].item<float>(), levels[i]) << weights[i];
  }
}

TEST(RoundHalf, IsTheConversionToHalf) {
  const auto expect_half = [](float x) {
    const float expected = static_cast<float>(c10::Half(x));
    EXPECT_EQ(round_half(x), expected) << x;
    EXPECT_EQ(std::signbit(round_half(x)), std::signbit(expected)) << x;
  };
  // Every half, what lies in the middle of two, and the fp32 numbers beside those.
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto half = static_cast<float>(c10::Half(static_cast<unsigned short>(bits), c10::Half::from_bits()));
    const auto next = static_cast<float>(c10::Half(static_cast<unsigned short>(bits + 1), c10::Half::from_bits()));
    const float middle = bits + 1 < 0x7c00 ? (half + next) / 2 : 65520.0f;
    for (const float x : {half, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      expect_half(x);
      expect_half(-x);
    }
  }
  for (const float x : {1e-8f, 1e-30f, 65519.0f, 1e9f, 3e38f}) expect_half(x);
}

TEST(RoundE4m3, IsTheConversionToE4m3) {
  const auto expect_e4m3 = [](float x) { EXPECT_EQ(round_e4m3(x), static_cast<float>(c10::Float8_e4m3fn(x))) << x; };
  // Every number of E4M3 up to 448, what lies in the middle of two, and the fp32 numbers beside those.
  for (std::uint8_t bits = 0; bits < 0x7e; ++bits) {
    const auto number = static_cast<float>(c10::Float8_e4m3fn(bits, c10::Float8_e4m3fn::from_bits()));
    const auto next =
        static_cast<float>(c10::Float8_e4m3fn(static_cast<std::uint8_t>(bits + 1), c10::Float8_e4m3fn::from_bits()));
    const float middle = (number + next) / 2;
    for (const float x : {number, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f), next}) expect_e4m3(x);
  }
  for (const float x : {1e-30f, 1e-5f, 447.9f}) expect_e4m3(x);
}

TEST(PowersOfTwo, AreThoseOfTheLibrary) {
  for (int exponent = -127; exponent <= 127; ++exponent) {
    EXPECT_EQ(power_of_two(exponent), std::ldexp(1.0f, exponent));
    const float power = std::ldexp(1.0f, exponent);
    if (exponent >= -126) {
      for (const float x : {power, 1.5f * power, std::nextafter(2 * power, 0.0f)}) EXPECT_EQ(exponent_of(x), exponent) << x;
    }
  }
  for (const float x : {1e-40f, 1e-45f}) EXPECT_LT(exponent_of(x), -126) << x;
}

TEST(GlobalScale, IsOneForAllWeights) {
  QuantScheme scheme;
  scheme.type = WeightType::kNvFp4;
  const std::vector<torch::Tensor> weights = {torch::full({2, 16}, 0.5f), torch::full({2, 16}, -3.0f)};
  EXPECT_EQ(with_global_scale(scheme, weights).global_scale, 512);  // <= 448 * 6 / 3 = 896
  scheme.global_scale = 4;
  EXPECT_EQ(with_global_scale(scheme, weights).global_scale, 4);
  EXPECT_EQ(with_global_scale(QuantScheme(), weights).global_scale, 0);
}

TEST(GlobalScale, IsFiniteForTheLeastAndTheLargestWeights) {
  QuantScheme scheme;
  scheme.type = WeightType::kNvFp4;
  for (const float largest : {0.0f, 1e-45f, 1e-38f, 1e-30f, 1e30f, 3e38f}) {
    const float found = with_global_scale(scheme, {torch::full({2, 16}, largest)}).global_scale;
    EXPECT_TRUE(std::isfinite(found) && found > 0 && std::isfinite(1 / found)) << largest << ": " << found;
  }
}

TEST(ZeroScales, BecomeTheLeastOneAndTheWeightsStayZero) {
  torch::manual_seed(6);
  QuantScheme scheme{.bits = 4, .group_size = 16};
  scheme.type = WeightType::kNvFp4;
  torch::Tensor weight = torch::randn({3, 48});
  weight[1].narrow(0, 16, 16).zero_();
  weight[2].narrow(0, 32, 16).mul_(1e-9f);
  const QuantScheme known = with_global_scale(scheme, {weight});
  RoundingParameters parameters = make_rounding_parameters(weight, known);
  parameters.v.uniform_(-0.5, 0.5);
  QuantizedWeight quantized = quantize(weight, parameters, known);
  EXPECT_EQ(quantized.scale.eq(0).sum().item<int>(), 2);
  const torch::Tensor before = dequantize(quantized, torch::kFloat32);
  const torch::Tensor scales = quantized.scale.clone();
  replace_zero_scales(quantized);
  EXPECT_TRUE(torch::equal(dequantize(quantized, torch::kFloat32), before));
  EXPECT_TRUE(torch::equal(quantized.scale.masked_select(scales.ne(0)), scales.masked_select(scales.ne(0))));
  EXPECT_EQ(quantized.scale[1][1].item<float>(), std::ldexp(1.0f, -9) / known.global_scale);
  EXPECT_EQ(quantized.scale[2][2].item<float>(), std::ldexp(1.0f, -9) / known.global_scale);
  EXPECT_EQ(round_to_nearest(weight, known).scale.eq(0).sum().item<int>(), 0);
}

INSTANTIATE_TEST_SUITE_P(All, FakeQuantFloat4, ::testing::Values(WeightType::kMxFp4, WeightType::kNvFp4));

TEST(QuantizeWhere, WritesOnlyWhereItIsWanted) {
  torch::manual_seed(5);
  const QuantScheme scheme{4, 32};
  const torch::Tensor first = torch::randn({8, 64});
  const torch::Tensor second = torch::randn({8, 64});
  QuantizedWeight kept = quantize(first, make_rounding_parameters(first, scheme), scheme);
  const torch::Tensor before = kept.q.clone();
  const RoundingParameters parameters = make_rounding_parameters(second, scheme);
  quantize_where(torch::tensor(false), second, parameters, scheme, kept);
  EXPECT_TRUE(torch::equal(kept.q, before));
  quantize_where(torch::tensor(true), second, parameters, scheme, kept);
  const QuantizedWeight want = quantize(second, parameters, scheme);
  EXPECT_TRUE(torch::equal(kept.q, want.q));
  EXPECT_TRUE(torch::equal(kept.scale, want.scale));
}

TEST(RoundToNearest, RowsInPiecesAreTheWhole) {
  torch::manual_seed(2);
  const torch::Tensor weight = torch::randn({4096 + 37, 32}).to(torch::kBFloat16);
  const QuantScheme scheme{4, 16, false, true, true, 1};
  const QuantizedWeight pieces = round_to_nearest(weight, scheme);
  const QuantizedWeight whole = quantize(weight, make_rounding_parameters(weight, scheme), scheme);
  EXPECT_TRUE(torch::equal(pieces.q, whole.q));
  EXPECT_TRUE(torch::equal(pieces.scale, whole.scale));
  EXPECT_TRUE(torch::equal(pieces.zero_point, whole.zero_point));
}

TEST(FakeQuantByHand, SymmetricFullRange) {
  // Largest magnitude is negative: a = 4 > c = 2, s = +4/8 = 0.5, q = -8 .. 7.
  const torch::Tensor weight = torch::tensor({{-4.0f, 2.0f, 0.3f, 0.74f}});
  const QuantScheme scheme{4, -1, true, true, true, 0};
  const QuantizedWeight q = quantize(weight, make_rounding_parameters(weight, scheme), scheme);
  EXPECT_EQ(q.scale[0][0].item<float>(), 0.5f);
  EXPECT_EQ(q.zero_point[0][0].item<int>(), 8);
  // -4/0.5 = -8 -> 0; 2/0.5 = 4 -> 12; 0.6 -> 1 -> 9; 1.48 -> 1 -> 9
  EXPECT_TRUE(torch::equal(q.q, torch::tensor({{0, 12, 9, 9}}, torch::kUInt8)));
}

TEST(FakeQuantByHand, PositiveMaximumGivesANegativeScale) {
  const torch::Tensor weight = torch::tensor({{4.0f, -2.0f}});
  const QuantScheme scheme{4, -1, true, true, true, 0};
  const QuantizedWeight q = quantize(weight, make_rounding_parameters(weight, scheme), scheme);
  EXPECT_EQ(q.scale[0][0].item<float>(), -0.5f);
  EXPECT_TRUE(torch::equal(q.q, torch::tensor({{0, 12}}, torch::kUInt8)));
}

TEST(FakeQuantByHand, ZeroPointIsLiftedToTheFormatsLeast) {
  // All positive: z would be 0, which auto_gptq cannot hold.
  const torch::Tensor weight = torch::tensor({{1.0f, 1.5f, 0.0f}});
  const QuantScheme scheme{4, -1, false, true, true, 1};
  const QuantizedWeight q = quantize(weight, make_rounding_parameters(weight, scheme), scheme);
  EXPECT_EQ(q.zero_point[0][0].item<int>(), 1);
  EXPECT_NEAR(q.scale[0][0].item<float>(), 0.1f, 1e-4);
  EXPECT_TRUE(torch::equal(q.q, torch::tensor({{11, 15, 1}}, torch::kUInt8)));  // 1.5 needs 16: clamped
}

// Instead of a division there are a product and a correction, which round as it does: to the bit, for scales in fp16.
TEST(FakeQuantMath, TheRatioIsTheQuotient) {
  torch::manual_seed(5);
  constexpr std::int64_t kCount = 1'000'000;
  const torch::Tensor scales = (torch::randn({kCount}) * 0.01).to(torch::kFloat16).to(torch::kFloat32).contiguous();
  const torch::Tensor weights = torch::randn({kCount});
  const auto* scale = scales.const_data_ptr<float>();
  const auto* weight = weights.const_data_ptr<float>();
  std::int64_t others = 0;
  for (std::int64_t i = 0; i < kCount; ++i) {
    if (std::fabs(scale[i]) < least_scale(QuantScheme{})) continue;
    GroupGrid grid;
    grid.scale = scale[i];
    grid.inverse_scale = 1.0f / scale[i];
    others += ratio_of(grid, weight[i]) != weight[i] / scale[i];
  }
  EXPECT_EQ(others, 0);
}

}  // namespace
}  // namespace roundtable
