// causal_attention against the formula in fp64, forward and backward, and against LibTorch's kernel for precision.
#include "model/attention/attention.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

namespace roundtable {
namespace {

struct Case {
  std::int64_t heads, kv_heads, seqlen, window;
};

struct Result {
  torch::Tensor out, dq, dk, dv;
};

// softmax(q k^T * scale + mask) v in fp64, with the key/value heads repeated and the mask written out.
torch::Tensor formula(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, double scale,
                      std::int64_t window) {
  const std::int64_t shared = q.size(1) / k.size(1);
  const torch::Tensor i = torch::arange(q.size(2)).unsqueeze(1);
  const torch::Tensor j = torch::arange(q.size(2)).unsqueeze(0);
  torch::Tensor hidden = j > i;
  if (window > 0) hidden = hidden.logical_or(j <= i - window);
  const torch::Tensor scores = torch::matmul(q, k.repeat_interleave(shared, 1).transpose(2, 3)) * scale;
  return torch::matmul(torch::softmax(scores.masked_fill(hidden, -INFINITY), -1), v.repeat_interleave(shared, 1));
}

template <class Attention>
Result run(const Attention& attention, const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
           const torch::Tensor& upstream, torch::ScalarType dtype) {
  const auto leaf = [&](const torch::Tensor& x) { return x.detach().to(dtype).clone().requires_grad_(); };
  const torch::Tensor a = leaf(q), b = leaf(k), c = leaf(v);
  const torch::Tensor out = attention(a, b, c);
  out.backward(upstream.to(dtype));
  return {out.detach(), a.grad(), b.grad(), c.grad()};
}

double relative_error(const torch::Tensor& a, const torch::Tensor& truth) {
  return ((a.to(torch::kFloat64) - truth).norm() / truth.norm()).item<double>();
}

void expect_close(const torch::Tensor& a, const torch::Tensor& truth, double tolerance) {
  const double error = (a.to(torch::kFloat64) - truth).norm().item<double>();
  EXPECT_LE(error, tolerance * truth.norm().item<double>());  // a row that sees one key alone has gradients of 0
}

void expect_close(const Result& got, const Result& truth, double tolerance) {
  expect_close(got.out, truth.out, tolerance);
  expect_close(got.dq, truth.dq, tolerance);
  expect_close(got.dk, truth.dk, tolerance);
  expect_close(got.dv, truth.dv, tolerance);
}

class CausalAttention : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr std::int64_t kHeadDim = 24;
  static constexpr double kScale = 0.3;

  void check(torch::ScalarType dtype, double tolerance) {
    const Case c = GetParam();
    torch::manual_seed(7);
    // Sequence before heads, as a projection leaves them: the function is given strided views.
    const auto random = [&](std::int64_t heads) {
      return torch::randn({2, c.seqlen, heads, kHeadDim}).to(dtype).transpose(1, 2);
    };
    const torch::Tensor q = random(c.heads), k = random(c.kv_heads), v = random(c.kv_heads), dy = random(c.heads);
    const auto ours = [&](const auto& a, const auto& b, const auto& d) {
      return causal_attention(a, b, d, kScale, c.window);
    };
    const auto truth = [&](const auto& a, const auto& b, const auto& d) { return formula(a, b, d, kScale, c.window); };
    expect_close(run(ours, q, k, v, dy, dtype), run(truth, q, k, v, dy, torch::kFloat64), tolerance);
  }
};

TEST_P(CausalAttention, Fp32) { check(torch::kFloat32, 2e-6); }
TEST_P(CausalAttention, Bf16) { check(torch::kBFloat16, 8e-3); }

// One tile, tiles that do not divide, windows narrower and wider than a tile and than the sequence; of an even length,
// which packed products take, and an odd one.
INSTANTIATE_TEST_SUITE_P(Shapes, CausalAttention,
                         ::testing::Values(Case{2, 2, 1, 0}, Case{4, 4, 37, 0}, Case{6, 2, 128, 0}, Case{6, 3, 301, 0},
                                           Case{4, 1, 301, 17}, Case{2, 2, 301, 128}, Case{4, 2, 301, 200},
                                           Case{4, 2, 130, 1}, Case{4, 2, 130, 500}, Case{6, 3, 300, 0}, Case{4, 1, 300, 17},
                                           Case{2, 2, 300, 128}, Case{4, 2, 300, 201}));

// Scores far from zero, where a score kept in bf16 would be off by whole units.
TEST(CausalAttentionPrecision, LargeScoresKeepLibTorchsPrecision) {
  torch::manual_seed(8);
  const auto random = [] { return (torch::randn({2, 4, 200, 64}) * 4).to(torch::kBFloat16); };
  const torch::Tensor q = random(), k = random(), v = random(), dy = random();
  const auto ours = [](const auto& a, const auto& b, const auto& c) { return causal_attention(a, b, c, 0.125, 0); };
  const auto library = [](const auto& a, const auto& b, const auto& c) {
    return at::scaled_dot_product_attention(a, b, c, std::nullopt, 0.0, true);
  };
  const auto plain = [](const auto& a, const auto& b, const auto& c) { return formula(a, b, c, 0.125, 0); };
  const Result truth = run(plain, q, k, v, dy, torch::kFloat64);
  const Result mine = run(ours, q, k, v, dy, torch::kBFloat16);
  const Result theirs = run(library, q, k, v, dy, torch::kBFloat16);
  EXPECT_LE(relative_error(mine.out, truth.out), 1.5 * relative_error(theirs.out, truth.out));
  EXPECT_LE(relative_error(mine.dq, truth.dq), 2 * relative_error(theirs.dq, truth.dq));
  EXPECT_LE(relative_error(mine.dk, truth.dk), 2 * relative_error(theirs.dk, truth.dk));
  EXPECT_LE(relative_error(mine.dv, truth.dv), 1.5 * relative_error(theirs.dv, truth.dv));
}

TEST(CausalAttentionMemory, CountsWhatTheTilesKeep) {
  // 150 rows: tiles of 64, 64 and 22 rows see 64, 128 and 150 keys.
  EXPECT_EQ(kept_attention_bytes(2, 3, 150, 0, 2), 2 * 3 * (64 * 64 + 64 * 128 + 22 * 150) * 2);
  // A window of 10: 64, 64 + 9 and 22 + 9 keys, and one more where the first of them is odd.
  EXPECT_EQ(kept_attention_bytes(1, 1, 150, 10, 4), (64 * 64 + 64 * 74 + 22 * 32) * 4);
}

}  // namespace
}  // namespace roundtable
