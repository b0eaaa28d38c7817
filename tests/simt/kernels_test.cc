// The CUDA kernels, run by the emulator, against the CPU's. What has one order of its operations is equal to the bit.
// Sums over a group have another order on each side; their bounds follow from the rounding of fp32 (exact_gradients.h).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "exact_gradients.h"
#include "matrix.h"
#include "quant/fake_quant_math.h"

// LibTorch and Open MPI keep memory to the end. Fibers have stacks of their own.
extern "C" const char* __asan_default_options() { return "detect_leaks=0:detect_stack_use_after_return=0"; }

namespace roundtable {
namespace {

// Fills what a kernel must write, so that what it leaves out differs.
template <class T>
std::vector<T> unwritten(std::size_t n) {
  std::vector<T> out(n);
  std::memset(out.data(), 0xa5, n * sizeof(T));
  return out;
}

// How many elements differ in their bits.
template <class T>
std::size_t different(const std::vector<T>& a, const std::vector<T>& b) {
  std::size_t count = a.size() == b.size() ? 0 : a.size() + b.size();
  for (std::size_t i = 0; count <= a.size() && i < a.size(); ++i) count += std::memcmp(&a[i], &b[i], sizeof(T)) != 0;
  return count;
}

// The same, but -0 is 0, which a gradient of 0 may be on either side.
std::size_t different_values(const std::vector<float>& a, const std::vector<float>& b) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) count += !(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])));
  return count;
}

template <class T>
void expect_same_weights(Matrix m) {
  const bool is_bf16 = sizeof(T) == 2;
  std::vector<T> there = unwritten<T>(m.size()), here = there;
  cpu::fake_quantize(arrays_of(m), m.scheme, here.data(), is_bf16);
  cuda::fake_quantize(arrays_of(m), m.scheme, there.data(), is_bf16);
  EXPECT_EQ(different(here, there), 0u) << "of fake_quantize into " << sizeof(T) << " bytes";
}

struct Integers {
  explicit Integers(const Matrix& m)
      : q(unwritten<std::uint8_t>(m.size())),
        scale(unwritten<float>(m.groups())),
        zero_point(unwritten<std::uint8_t>(m.groups())) {}
  QuantizedArrays arrays() { return {q.data(), scale.data(), zero_point.data()}; }
  bool operator==(const Integers& other) const {
    return different(q, other.q) + different(scale, other.scale) + different(zero_point, other.zero_point) == 0;
  }
  std::vector<std::uint8_t> q;
  std::vector<float> scale;
  std::vector<std::uint8_t> zero_point;
};

void expect_same_integers(Matrix m) {
  Integers here(m), there(m), kept(m);
  const Integers before = kept;
  const std::vector<std::uint8_t> flags{0, 1};  // `wanted` is one byte
  const auto* wanted = reinterpret_cast<const bool*>(flags.data());
  cpu::quantize(arrays_of(m), m.scheme, nullptr, here.arrays());
  cuda::quantize(arrays_of(m), m.scheme, nullptr, there.arrays());
  EXPECT_EQ(different(here.q, there.q), 0u) << "of quantize";
  EXPECT_EQ(different(here.scale, there.scale), 0u) << "scales of quantize";
  EXPECT_EQ(different(here.zero_point, there.zero_point), 0u) << "zero points of quantize";
  cuda::quantize(arrays_of(m), m.scheme, wanted, kept.arrays());
  EXPECT_TRUE(kept == before) << "quantize writes what is not wanted";
  cuda::quantize(arrays_of(m), m.scheme, wanted + 1, kept.arrays());
  EXPECT_TRUE(kept == here) << "quantize does not write what is wanted";
}

struct Gradients {
  explicit Gradients(const Matrix& m)
      : v(unwritten<float>(m.size())), min_scale(unwritten<float>(m.groups())), max_scale(min_scale) {}
  GradientArrays arrays() { return {v.data(), min_scale.data(), max_scale.data()}; }
  std::vector<float> v, min_scale, max_scale;
};

void expect_same_gradients(Matrix m, const std::vector<ExactGradient>& exact) {
  Gradients here(m), there(m);
  const std::vector<float> v = m.v;
  cpu::rounding_gradients(arrays_of(m), m.scheme, m.gradient.data(), here.arrays());
  cuda::rounding_gradients(arrays_of(m), m.scheme, m.gradient.data(), there.arrays());
  EXPECT_EQ(different(m.v, v), 0u) << "v is moved by rounding_gradients";
  EXPECT_EQ(different_values(here.v, there.v), 0u) << "gradients of v";
  for (std::size_t g = 0; g < exact.size(); ++g) {
    ASSERT_NEAR(there.min_scale[g], exact[g].min_scale.value, exact[g].min_scale.bound) << "of group " << g;
    ASSERT_NEAR(there.max_scale[g], exact[g].max_scale.value, exact[g].max_scale.bound) << "of group " << g;
    ASSERT_NEAR(here.min_scale[g], exact[g].min_scale.value, exact[g].min_scale.bound) << "of group " << g;
    ASSERT_NEAR(here.max_scale[g], exact[g].max_scale.value, exact[g].max_scale.bound) << "of group " << g;
  }
}

// Equal where the gradient's sign is certain. Where it is not, the factor stays or moves either way.
void expect_same_factor(float before, float here, float there, const Sum& gradient, const StepSize& size) {
  const auto moved = [&](float sign) { return stepped_scale(before, sign, size.minmax_lr, size.minmax_bound); };
  if (gradient.has_sign()) {
    EXPECT_EQ(there, here);
    EXPECT_EQ(there, moved(gradient.value > 0 ? 1.0f : gradient.value < 0 ? -1.0f : 0.0f));
  } else {
    EXPECT_TRUE(there == moved(1) || there == moved(-1) || there == moved(0)) << before << " becomes " << there;
  }
}

void expect_same_step(const Matrix& m, const std::vector<ExactGradient>& exact, const StepSize& size) {
  Matrix here = m, there = m;
  cpu::sign_step(arrays_of(here), m.scheme, m.gradient.data(), size);
  cuda::sign_step(arrays_of(there), m.scheme, m.gradient.data(), size);
  EXPECT_EQ(different_values(here.v, there.v), 0u) << "v after a step";
  for (std::size_t g = 0; g < m.groups(); ++g) {
    if (size.minmax_lr == 0) {
      ASSERT_EQ(there.min_scale[g], m.min_scale[g]) << "of a step that leaves the factors, group " << g;
      ASSERT_EQ(there.max_scale[g], m.max_scale[g]) << "of a step that leaves the factors, group " << g;
      continue;
    }
    SCOPED_TRACE("factors of group " + std::to_string(g));
    expect_same_factor(m.min_scale[g], here.min_scale[g], there.min_scale[g], exact[g].min_scale, size);
    expect_same_factor(m.max_scale[g], here.max_scale[g], there.max_scale[g], exact[g].max_scale, size);
    if (::testing::Test::HasFailure()) return;
  }
}

// All kernels but the search.
void expect_equal(const Matrix& m) {
  SCOPED_TRACE(m.text());
  expect_same_weights<float>(m);
  expect_same_weights<std::uint16_t>(m);
  expect_same_integers(m);
  const std::vector<ExactGradient> exact = exact_gradients(m);
  expect_same_gradients(m, exact);
  expect_same_step(m, exact, {0.01f, 0.005f, m.bound});
  expect_same_step(m, exact, {0.003f, 0.0f, m.bound});
}

// The search sums errors. Two candidates whose errors differ by less than the rounding of a sum are both right, which
// weights of a wide range show in one of thousands of groups.
class SearchTally {
 public:
  void add(const Matrix& m) {
    Matrix here = m, there = m;
    cpu::search_scales(arrays_of(here), m.scheme, m.importance.data());
    cuda::search_scales(arrays_of(there), m.scheme, m.importance.data());
    const std::size_t others = std::max(different(here.wmin, there.wmin), different(here.wmax, there.wmax));
    groups_ += m.groups();
    others_ += others;
    if (others > 0) where_ += "\n" + std::to_string(others) + " of " + m.text();
  }
  void expect_equal() const { EXPECT_LE(others_ * 500, groups_) << "other ranges than on the CPU:" << where_; }

 private:
  std::size_t groups_ = 0;
  std::size_t others_ = 0;
  std::string where_;
};

// Rows and columns with their groups: fewer and more weights than a team has lanes, last groups that are shorter (by
// one weight, of one weight), one group per row, more groups than a block has teams, rows that are whole pieces of 16
// bytes and rows that are not.
struct Grouping {
  std::int64_t group_size;
  Shape shape;
};
constexpr Grouping kGroupings[] = {
    {128, {9, 256}}, {128, {3, 301}}, {64, {5, 192}},  {32, {17, 96}}, {32, {3, 65}},  {16, {11, 80}},
    {40, {7, 200}},  {17, {5, 35}},   {4, {33, 12}},   {1, {2, 9}},    {-1, {5, 77}},  {-1, {1, 1}},
    {-1, {3, 520}},  {256, {2, 511}}, {100, {3, 200}}, {7, {70, 13}},  {128, {66, 4}},
};

std::vector<QuantScheme> integer_schemes(int bits) {
  std::vector<QuantScheme> out;
  for (const bool fp16_scale : {true, false}) {
    out.push_back({.bits = bits, .symmetric = true, .full_range = true, .fp16_scale = fp16_scale});
    out.push_back({.bits = bits, .symmetric = true, .full_range = false, .fp16_scale = fp16_scale});
    out.push_back({.bits = bits, .symmetric = false, .fp16_scale = fp16_scale, .min_zero_point = 0});
    out.push_back({.bits = bits, .symmetric = false, .fp16_scale = fp16_scale, .min_zero_point = 1});
  }
  return out;
}

// Each matrix has another kind of weights, so that each kind meets every scheme and shape in the course of a test.
class Matrices {
 public:
  Matrix next(QuantScheme scheme, const Grouping& grouping, bool is_bf16) {
    if (scheme.type == WeightType::kInt) scheme.group_size = grouping.group_size;
    const auto kind = static_cast<Weights>(++count_ % kKindsOfWeights);
    return make_matrix(scheme, grouping.shape, is_bf16, kind, count_ % 4 < 2 ? 1.0f : 2.0f, random_);
  }

 private:
  std::mt19937 random_{1};
  unsigned count_ = 0;
};

std::vector<QuantScheme> float_schemes() {
  return {{.group_size = 32, .fp16_scale = false, .type = WeightType::kMxFp4},
          {.group_size = 16, .fp16_scale = false, .type = WeightType::kNvFp4}};
}

void expect_integers_equal(int bits) {
  Matrices matrices;
  for (const QuantScheme& scheme : integer_schemes(bits)) {
    for (const Grouping& grouping : kGroupings) {
      for (const bool is_bf16 : {true, false}) {
        expect_equal(matrices.next(scheme, grouping, is_bf16));
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST(CudaKernels, IntegersOf2BitsEqualTheCpus) { expect_integers_equal(2); }
TEST(CudaKernels, IntegersOf3BitsEqualTheCpus) { expect_integers_equal(3); }
TEST(CudaKernels, IntegersOf4BitsEqualTheCpus) { expect_integers_equal(4); }
TEST(CudaKernels, IntegersOf8BitsEqualTheCpus) { expect_integers_equal(8); }

TEST(CudaKernels, FloatsEqualTheCpus) {
  Matrices matrices;
  for (const QuantScheme& scheme : float_schemes()) {
    for (int times = 0; times < 8; ++times) {
      for (const Grouping& grouping : kGroupings) {
        expect_equal(matrices.next(scheme, grouping, times % 2 == 0));
        if (HasFailure()) return;
      }
    }
  }
}

// A stack of three experts, whose matrices lie at any offset: what the kernels do to one does not reach the others, and
// is what they do to all at once.
void expect_stack(const Matrix& m) {
  SCOPED_TRACE(m.text());
  const std::int64_t rows = m.shape.rows / 3;
  const StepSize size{0.01f, 0.005f, m.bound};
  Matrix whole = m, parts = m;
  std::vector<float> result = unwritten<float>(m.size()), results = result;
  cuda::fake_quantize(arrays_of(whole), m.scheme, result.data(), false);
  cuda::sign_step(arrays_of(whole), m.scheme, m.gradient.data(), size);
  for (const std::int64_t expert : {1, 0, 2}) {
    const std::int64_t at = expert * rows * m.shape.columns;
    const WeightArrays arrays = arrays_of(parts, expert * rows, rows);
    cuda::fake_quantize(arrays, m.scheme, results.data() + at, false);
    cuda::sign_step(arrays, m.scheme, m.gradient.data() + at, size);
    if (expert != 1) continue;
    const std::vector<float> untouched = unwritten<float>(m.size());
    const auto rest = m.size() - m.size() / 3;
    EXPECT_EQ(different(results, untouched), m.size() / 3) << "weights of the other experts";
    EXPECT_LE(different(parts.v, m.v), m.size() - rest) << "v of the other experts";
    EXPECT_LE(different(parts.min_scale, m.min_scale), m.groups() / 3) << "factors of the other experts";
  }
  EXPECT_EQ(different(results, result), 0u);
  EXPECT_EQ(different(parts.v, whole.v), 0u);
  EXPECT_EQ(different(parts.min_scale, whole.min_scale), 0u);
  EXPECT_EQ(different(parts.max_scale, whole.max_scale), 0u);
}

TEST(CudaKernels, WorkOnOneExpertAlone) {
  Matrices matrices;
  std::vector<QuantScheme> schemes = integer_schemes(4);
  for (const QuantScheme& scheme : float_schemes()) schemes.push_back(scheme);
  for (const QuantScheme& scheme : schemes) {
    for (const Shape shape : {Shape{9, 33}, Shape{6, 128}, Shape{15, 36}, Shape{3, 97}}) {
      for (const bool is_bf16 : {true, false}) expect_stack(matrices.next(scheme, {32, shape}, is_bf16));
    }
  }
}

// Behind one element more, so that no pack of several begins there.
template <class T>
struct Shifted {
  explicit Shifted(const std::vector<T>& from) : room(from.size() + 1), data(room.data() + 1) {
    std::copy(from.begin(), from.end(), data);
  }
  std::vector<T> room;
  T* data;
};

// Rows of whole packs in arrays that do not begin with one: v, then the weights, then what goes in and out.
TEST(CudaKernels, ArraysBeginAnywhere) {
  Matrices matrices;
  const Matrix m = matrices.next({}, {32, {5, 64}}, true);
  const StepSize size{0.01f, 0.0f, m.bound};
  Matrix usual = m;
  std::vector<float> expected(m.size());
  cuda::fake_quantize(arrays_of(usual), m.scheme, expected.data(), false);
  cuda::sign_step(arrays_of(usual), m.scheme, m.gradient.data(), size);
  for (int shifted = 0; shifted < 3; ++shifted) {
    Matrix one = m;
    std::vector<float> found(m.size());
    Shifted<float> v(m.v), gradient(m.gradient), result(found);
    Shifted<std::uint16_t> weight(m.bf16);
    WeightArrays a = arrays_of(one);
    if (shifted == 0) a.v = v.data;
    if (shifted == 1) a.weight = weight.data;
    float* out = shifted == 2 ? result.data : found.data();
    cuda::fake_quantize(a, m.scheme, out, false);
    cuda::sign_step(a, m.scheme, shifted == 2 ? gradient.data : m.gradient.data(), size);
    EXPECT_EQ(different(std::vector<float>(out, out + m.size()), expected), 0u) << shifted;
    EXPECT_EQ(different(std::vector<float>(a.v, a.v + m.size()), usual.v), 0u) << shifted;
  }
}

// A gradient that is not a number moves neither its weight's v nor its group's factors.
TEST(CudaKernels, GradientsThatAreNoNumbersMoveNothing) {
  Matrices matrices;
  for (const QuantScheme& scheme : integer_schemes(4)) {
    Matrix m = matrices.next(scheme, {40, {5, 100}}, true);
    m.gradient[17] = std::numeric_limits<float>::quiet_NaN();
    const Matrix before = m;
    cuda::sign_step(arrays_of(m), m.scheme, m.gradient.data(), {0.01f, 0.005f, 2.0f});
    EXPECT_EQ(m.v[17], before.v[17]);
    EXPECT_EQ(m.min_scale[0], before.min_scale[0]);
    EXPECT_EQ(m.max_scale[0], before.max_scale[0]);
  }
}

// Takes hundreds of sums per group: each scheme has a third of the groupings.
TEST(CudaSearch, OfIntegersEqualsTheCpus) {
  Matrices matrices;
  SearchTally tally;
  std::size_t turn = 0;
  for (const int bits : {2, 3, 4, 8}) {
    for (const QuantScheme& scheme : integer_schemes(bits)) {
      for (std::size_t i = turn++ % 3; i < std::size(kGroupings); i += 3) {
        tally.add(matrices.next(scheme, kGroupings[i], i % 2 == 0));
      }
    }
  }
  tally.expect_equal();
}

TEST(CudaSearch, OfFloatsEqualsTheCpus) {
  Matrices matrices;
  SearchTally tally;
  for (const QuantScheme& scheme : float_schemes()) {
    for (const Grouping& grouping : kGroupings) {
      for (const bool is_bf16 : {true, false}) tally.add(matrices.next(scheme, grouping, is_bf16));
    }
  }
  tally.expect_equal();
}

}  // namespace
}  // namespace roundtable
