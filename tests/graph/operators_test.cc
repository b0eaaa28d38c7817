// Our operators against plain formulas in fp64, forward and backward.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "graph/operators/library.h"
#include "tests/graph/graph_builder.h"

namespace roundtable::testing {
namespace {

using torch::Tensor;
using MaybeTensor = std::optional<Tensor>;

struct AttentionCase {
  const char* name;
  std::int64_t heads = 4, kv_heads = 2, keys = 12, head_dim = 8, value_dim = 8;
  enum { kCausal, kNone, kBool, kAdded } mask = kCausal;
  bool sinks = false;
  std::int64_t window = 0;
  double softcap = 0;
  torch::ScalarType dtype = torch::kFloat32;
};

// FORMAT.md's words, in fp64.
Tensor formula(const AttentionCase& c, const Tensor& q, const Tensor& k0, const Tensor& v0, const MaybeTensor& mask,
               const MaybeTensor& sinks, double scale) {
  const Tensor k = k0.repeat_interleave(c.heads / c.kv_heads, 1), v = v0.repeat_interleave(c.heads / c.kv_heads, 1);
  Tensor scores = torch::matmul(q, k.transpose(2, 3)) * scale;
  if (c.softcap > 0) scores = torch::tanh(scores / c.softcap) * c.softcap;
  if (c.mask == AttentionCase::kCausal) {
    const Tensor i = torch::arange(q.size(2)).unsqueeze(1), j = torch::arange(k.size(2)).unsqueeze(0);
    Tensor seen = j <= i;
    if (c.window > 0) seen = seen.logical_and(j > i - c.window);
    scores = scores.masked_fill(seen.logical_not(), -INFINITY);
  } else if (c.mask == AttentionCase::kBool) {
    scores = scores.masked_fill(mask->logical_not(), -INFINITY);
  } else if (c.mask == AttentionCase::kAdded) {
    scores = scores + *mask;
  }
  if (sinks) scores = torch::cat({scores, sinks->view({1, -1, 1, 1}).expand({q.size(0), -1, q.size(2), 1})}, -1);
  const Tensor p = torch::softmax(scores, -1).nan_to_num(0).narrow(-1, 0, k.size(2));
  return torch::matmul(p, v).transpose(1, 2);
}

class GraphAttention : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(GraphAttention, IsTheFormula) {
  const AttentionCase& c = GetParam();
  torch::manual_seed(3);
  const auto leaf = [&](std::vector<std::int64_t> shape) { return torch::randn(shape).to(c.dtype).requires_grad_(); };
  const auto wide = [](const Tensor& x) { return x.detach().to(torch::kFloat64).requires_grad_(); };
  const Tensor q = leaf({2, c.heads, 12, c.head_dim}), k = leaf({2, c.kv_heads, c.keys, c.head_dim});
  const Tensor v = leaf({2, c.kv_heads, c.keys, c.value_dim});
  const MaybeTensor sinks = c.sinks ? MaybeTensor(leaf({c.heads})) : std::nullopt;
  MaybeTensor mask;
  if (c.mask == AttentionCase::kBool) {
    mask = torch::rand({2, 1, 12, c.keys}) < 0.6;
    mask->select(2, 5).fill_(false);  // a row that sees nothing
  }
  if (c.mask == AttentionCase::kAdded) mask = torch::randn({1, c.heads, 12, c.keys});
  const bool causal = c.mask == AttentionCase::kCausal;
  const Tensor y = graph_attention(q, k, v, mask, sinks, 0.3, causal, c.window, c.softcap);
  const Tensor wq = wide(q), wk = wide(k), wv = wide(v);
  const MaybeTensor ws = c.sinks ? MaybeTensor(wide(*sinks)) : std::nullopt;
  const MaybeTensor wide_mask =
      c.mask == AttentionCase::kAdded ? MaybeTensor(mask->to(c.dtype).to(torch::kFloat64)) : mask;
  const Tensor expected = formula(c, wq, wk, wv, wide_mask, ws, 0.3);
  const double tolerance = c.dtype == torch::kBFloat16 ? 2e-2 : 1e-5;
  EXPECT_EQ(y.sizes(), expected.sizes());
  EXPECT_LE(relative_difference(y, expected), tolerance);
  const Tensor upstream = torch::randn(y.sizes()).to(c.dtype);
  y.backward(upstream);
  expected.backward(upstream.to(torch::kFloat64));
  EXPECT_LE(relative_difference(q.grad(), wq.grad()), tolerance);
  EXPECT_LE(relative_difference(k.grad(), wk.grad()), tolerance);
  EXPECT_LE(relative_difference(v.grad(), wv.grad()), tolerance);
  if (!c.sinks) return;
  EXPECT_LE(relative_difference(sinks->grad(), ws->grad()), tolerance);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, GraphAttention,
    ::testing::Values(AttentionCase{.name = "packed"}, AttentionCase{.name = "window", .window = 5},
                      AttentionCase{.name = "bf16", .dtype = torch::kBFloat16},
                      AttentionCase{.name = "softcap", .softcap = 2.0},
                      AttentionCase{.name = "narrow_values", .kv_heads = 4, .head_dim = 12, .value_dim = 8},
                      AttentionCase{.name = "wide_values", .head_dim = 8, .value_dim = 12},
                      AttentionCase{.name = "wide_values_window", .value_dim = 12, .window = 3},
                      AttentionCase{.name = "fp64", .window = 4, .dtype = torch::kFloat64},
                      AttentionCase{.name = "sinks", .sinks = true},
                      AttentionCase{.name = "sinks_window_cap", .sinks = true, .window = 4, .softcap = 3.0},
                      AttentionCase{.name = "no_mask", .keys = 7, .mask = AttentionCase::kNone},
                      AttentionCase{.name = "bool_mask", .keys = 9, .mask = AttentionCase::kBool},
                      AttentionCase{.name = "bool_mask_sinks", .keys = 9, .mask = AttentionCase::kBool, .sinks = true},
                      AttentionCase{.name = "bool_mask_cap", .keys = 9, .mask = AttentionCase::kBool, .softcap = 2.0},
                      AttentionCase{.name = "added_mask", .keys = 9, .mask = AttentionCase::kAdded},
                      AttentionCase{.name = "added_mask_cap", .keys = 9, .mask = AttentionCase::kAdded, .softcap = 2.0},
                      AttentionCase{
                          .name = "added_mask_bf16", .mask = AttentionCase::kAdded, .dtype = torch::kBFloat16}),
    [](const auto& info) { return info.param.name; });

TEST(GraphAttentionMasks, ARowThatSeesNothingHasNoGradient) {
  const Tensor q = torch::randn({1, 1, 3, 4}).requires_grad_(), k = torch::randn({1, 1, 3, 4});
  Tensor mask = torch::zeros({3, 3});
  mask[1].fill_(-INFINITY);
  const Tensor y = graph_attention(q, k, k, mask, std::nullopt, 1, false, 0, 2.0);
  y.sum().backward();
  EXPECT_EQ(y.select(1, 1).abs().max().item<float>(), 0);
  EXPECT_TRUE(q.grad().isfinite().all().item<bool>());
}

TEST(GraphAttentionShapes, AreChecked) {
  const Tensor q = torch::randn({1, 4, 6, 8}), k = torch::randn({1, 2, 6, 8}), odd = torch::randn({1, 3, 6, 8});
  const auto run = [](const Tensor& a, const Tensor& b, const MaybeTensor& mask, double scale, bool causal) {
    return graph_attention(a, b, b, mask, std::nullopt, scale, causal, 0, 0);
  };
  EXPECT_NO_THROW(run(q, k, std::nullopt, 1, true));
  EXPECT_THROW(run(q, odd, std::nullopt, 1, true), c10::Error);
  EXPECT_THROW(run(q[0], k, std::nullopt, 1, true), c10::Error);
  EXPECT_THROW(run(q, k, torch::ones({6, 6}), 1, true), c10::Error);
  EXPECT_THROW(run(q, k, std::nullopt, 0, true), c10::Error);
  EXPECT_THROW(run(q, k.narrow(2, 0, 3), std::nullopt, 1, true), c10::Error);
  EXPECT_THROW(graph_attention(q, k, k, std::nullopt, torch::ones({3}), 1, true, 0, 0), c10::Error);
}

// Token by token: the mixture that the three operators are parts of. Expert 4 of 4 is no expert. In fp32 and bf16 the
// ways to rows and back are kernels; their numbers are compared with the formula's in fp64.
TEST(GraphExperts, AreAMixture) {
  torch::manual_seed(4);
  const Tensor index = torch::tensor({{0, 2}, {2, 0}, {4, 2}, {3, 0}, {2, 3}});
  for (const auto& [dtype, tolerance] : {std::pair{torch::kFloat64, 1e-12}, {torch::kFloat32, 2e-6}, {torch::kBFloat16, 1e-2}}) {
    for (const bool transposed : {false, true}) {
      const auto leaf = [type = dtype](std::vector<std::int64_t> shape) { return torch::randn(shape).to(type).requires_grad_(); };
      const Tensor x = leaf({5, 600}), weights = leaf({5, 2}), bias = leaf({4, 513});
      const Tensor weight = transposed ? leaf({4, 600, 513}) : leaf({4, 513, 600});
      const auto [rows, ends, order] = dispatch_tokens(x, index, 4);
      EXPECT_TRUE(torch::equal(ends, torch::tensor({3, 3, 7, 9}, torch::kInt32)));
      EXPECT_TRUE(torch::equal(order, torch::tensor({0, 3, 7, 1, 2, 5, 8, 6, 9, 4})));
      const Tensor y = combine_tokens(expert_linear(rows, weight, bias, ends, transposed), weights, order);
      std::vector<Tensor> wide;
      for (const Tensor& one : {x, weight, bias, weights}) wide.push_back(one.detach().to(torch::kFloat64).requires_grad_());
      std::vector<Tensor> expected;
      for (std::int64_t token = 0; token < 5; ++token) {
        Tensor sum = torch::zeros({513}, torch::kFloat64);
        for (std::int64_t slot = 0; slot < 2; ++slot) {
          const auto expert = index[token][slot].item<std::int64_t>();
          if (expert == 4) continue;
          const Tensor matrix = transposed ? wide[1][expert].t() : wide[1][expert];
          sum = sum + (torch::mv(matrix, wide[0][token]) + wide[2][expert]) * wide[3][token][slot];
        }
        expected.push_back(sum);
      }
      EXPECT_LE(relative_difference(y, torch::stack(expected)), tolerance);
      const Tensor upstream = torch::randn({5, 513}).to(dtype);
      const auto ours = torch::autograd::grad({y}, {x, weight, bias, weights}, {upstream});
      const auto theirs = torch::autograd::grad({torch::stack(expected)}, wide, {upstream.to(torch::kFloat64)});
      for (std::size_t i = 0; i < wide.size(); ++i) EXPECT_LE(relative_difference(ours[i], theirs[i]), tolerance) << i;
    }
  }
}

// Weights in fp32 for rows in bf16, as some routers give them: LibTorch's rules of types.
TEST(GraphExperts, WeightsOfAnotherDtypeGiveTheirs) {
  torch::manual_seed(5);
  const Tensor rows = torch::randn({6, 4}).to(torch::kBFloat16), weights = torch::rand({3, 2});
  const Tensor order = torch::tensor({4, 0, 2, 5, 1, 3});
  const Tensor y = combine_tokens(rows, weights, order);
  EXPECT_EQ(y.scalar_type(), torch::kFloat32);
  const Tensor flat = torch::zeros({6, 4}).index_copy(0, order, rows.to(torch::kFloat32)) * weights.view({6, 1});
  EXPECT_LE(relative_difference(y, flat.view({3, 2, 4}).sum(1)), 1e-6);
}

TEST(GraphExperts, WithoutTokensGiveZerosOrNothing) {
  const Tensor weight = torch::randn({2, 3, 6});
  const Tensor none = torch::zeros({2}, torch::kInt32);
  EXPECT_TRUE(
      torch::equal(expert_linear(torch::randn({4, 6}), weight, std::nullopt, none, false), torch::zeros({4, 3})));
  EXPECT_EQ(expert_linear(torch::randn({0, 6}), weight, std::nullopt, none, false).size(0), 0);
}

TEST(GraphExperts, ShapesAreChecked) {
  const Tensor rows = torch::randn({4, 6}), weight = torch::randn({2, 3, 6});
  for (const Tensor& ends :
       {torch::tensor({3, 2}), torch::tensor({3, 5}), torch::tensor({-1, 2}), torch::tensor({4})}) {
    EXPECT_THROW(expert_linear(rows, weight, std::nullopt, ends, false), c10::Error);
  }
  EXPECT_THROW(dispatch_tokens(rows, torch::zeros({3, 2}, torch::kInt64), 2), c10::Error);
  EXPECT_THROW(combine_tokens(rows, torch::ones({3, 2}), torch::arange(4)), c10::Error);
}

}  // namespace
}  // namespace roundtable::testing
