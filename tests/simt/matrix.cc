// Random weights, gradients and factors, and the ranges that follow from the weights.
#include "matrix.h"

#include <algorithm>
#include <cmath>

#include "base/simd/bf16_bits.h"
#include "quant/fake_quant_math.h"

namespace roundtable {
namespace {

float uniform(std::mt19937& random, float low, float high) {
  return low + (high - low) * static_cast<float>(random() >> 8) / 16777216.0f;
}

// Nearly normal, with a deviation of 1.
float normal(std::mt19937& random) {
  float sum = 0;
  for (int i = 0; i < 12; ++i) sum += uniform(random, -0.5f, 0.5f);
  return sum;
}

float weight_of(std::mt19937& random, Weights kind) {
  const float x = 0.1f * normal(random);
  switch (kind) {
    case Weights::kUsual: return x;
    case Weights::kWideRange: return std::ldexp(x, static_cast<int>(random() % 44) - 30);
    case Weights::kManyZeros: return random() % 16 == 0 ? x : 0.0f;  // some groups have no others
    case Weights::kNotNegative: return std::fabs(x);
    case Weights::kNotPositive: return -std::fabs(x);
    case Weights::kZero: return 0.0f;
  }
  return x;
}

void set_weights(Matrix& m, std::size_t size, std::mt19937& random) {
  m.weight.resize(size);
  for (float& one : m.weight) one = weight_of(random, m.kind);
  if (!m.is_bf16) return;
  m.bf16.resize(size);
  for (std::size_t i = 0; i < size; ++i) {
    store(m.weight[i], m.bf16[i]);
    m.weight[i] = load(m.bf16[i]);
  }
}

// As make_rounding_parameters() of quant/fake_quant.h.
void set_ranges(Matrix& m) {
  const std::int64_t width = m.scheme.group_columns(m.shape.columns);
  for (std::int64_t row = 0; row < m.shape.rows; ++row) {
    for (std::int64_t begin = 0; begin < m.shape.columns; begin += width) {
      const float* first = m.weight.data() + row * m.shape.columns;
      const auto [low, high] = std::minmax_element(first + begin, first + std::min(begin + width, m.shape.columns));
      m.wmin.push_back(std::min(*low, 0.0f));
      m.wmax.push_back(std::max(*high, 0.0f));
    }
  }
  m.wmin.shrink_to_fit();  // nothing may lie between the end and what AddressSanitizer guards
  m.wmax.shrink_to_fit();
}

// One in eleven factors is 0 and one is the largest.
std::vector<float> factors(std::size_t n, float bound, std::mt19937& random) {
  std::vector<float> out(n);
  for (float& one : out) {
    const unsigned special = random() % 11;
    one = special == 0 ? 0.0f : special == 1 ? bound : uniform(random, 0.6f, bound);
  }
  return out;
}

// As with_global_scale() of quant/fake_quant.h.
float global_scale_of(const std::vector<float>& weight) {
  float largest = 0;
  for (const float one : weight) largest = std::max(largest, std::fabs(one));
  int exponent = 0;
  if (largest > 0) std::frexp(kLargestE4m3 * kLargestE2m1 / largest, &exponent);
  return std::ldexp(1.0f, exponent - 1);
}

}  // namespace

std::string Matrix::text() const {
  const char* types[] = {"int", "mx_fp", "nv_fp"};
  std::string out = std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + (is_bf16 ? " bf16" : " fp32");
  out += ", weights " + std::to_string(static_cast<int>(kind)) + ", " + types[static_cast<int>(scheme.type)];
  out += " " + std::to_string(scheme.bits) + " bits, groups of " + std::to_string(scheme.group_size);
  if (scheme.type != WeightType::kInt) return out;
  out += scheme.symmetric ? (scheme.full_range ? ", sym" : ", sym restricted") : ", asym";
  if (!scheme.symmetric) out += " from " + std::to_string(scheme.min_zero_point);
  return out + (scheme.fp16_scale ? ", fp16 scales" : ", fp32 scales");
}

Matrix make_matrix(const QuantScheme& scheme, const Shape& shape, bool is_bf16, Weights kind, float bound,
                   std::mt19937& random) {
  Matrix m;
  m.scheme = scheme;
  m.shape = shape;
  m.kind = kind;
  m.is_bf16 = is_bf16;
  m.bound = bound;
  const auto size = static_cast<std::size_t>(shape.rows * shape.columns);
  set_weights(m, size, random);
  set_ranges(m);
  m.min_scale = factors(m.groups(), bound, random);
  m.max_scale = factors(m.groups(), bound, random);
  m.v.resize(size);
  for (float& one : m.v) one = uniform(random, -0.5f, 0.5f);
  m.gradient.resize(size);
  for (float& one : m.gradient) one = random() % 9 == 0 ? 0.0f : normal(random);
  m.importance.resize(static_cast<std::size_t>(shape.columns));
  for (float& one : m.importance) one = uniform(random, 0, 1);
  if (scheme.type == WeightType::kNvFp4) m.scheme.global_scale = global_scale_of(m.weight);
  return m;
}

WeightArrays arrays_of(Matrix& m, std::int64_t first, std::int64_t rows) {
  const std::int64_t groups = m.scheme.groups(m.shape.columns);
  const std::int64_t at = first * m.shape.columns, group = first * groups;
  const void* weight = m.is_bf16 ? static_cast<const void*>(m.bf16.data() + at) : m.weight.data() + at;
  return {weight, m.is_bf16, rows, m.shape.columns, groups, m.v.data() + at, m.min_scale.data() + group,
          m.max_scale.data() + group, m.wmin.data() + group, m.wmax.data() + group};
}

}  // namespace roundtable
