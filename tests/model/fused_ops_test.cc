// The fused operations of a block against LibTorch's own, forward and backward, in fp32 and bf16.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "model/forward/norm.h"
#include "model/forward/rope.h"
#include "model/forward/activation.h"

namespace roundtable {
namespace {

// |a - b| relative to b's size, at most `tolerance`.
void expect_near(const torch::Tensor& a, const torch::Tensor& b, double tolerance) {
  const double error = (a.to(torch::kFloat64) - b.to(torch::kFloat64)).norm().item<double>();
  EXPECT_LE(error, tolerance * b.to(torch::kFloat64).norm().item<double>());
}

class FusedOps : public ::testing::TestWithParam<torch::ScalarType> {
 protected:
  double tolerance() const { return GetParam() == torch::kFloat32 ? 2e-6 : 6e-3; }  // bf16: its own rounding, 2^-8
  torch::Tensor random(std::vector<std::int64_t> shape, double scale = 1) const {
    return (torch::randn(shape) * scale).to(GetParam());
  }
  // Of 9 positions, for so many dimensions of a head.
  static RopeTable rope_table(std::int64_t dimensions) {
    const torch::Tensor angles = torch::rand({9, dimensions / 2}, torch::kFloat64) * 9;
    const torch::Tensor both = torch::cat({angles, angles}, -1);
    return {both.cos().to(GetParam()), both.sin().to(GetParam())};
  }
  // The eager formula is evaluated in fp64 on the same values: the truth for both dtypes.
  static torch::Tensor leaf(const torch::Tensor& x) { return x.detach().to(torch::kFloat64).requires_grad_(); }
};

TEST_P(FusedOps, RmsNorm) {
  torch::manual_seed(1);
  const torch::Tensor x = random({3, 37, 67}, 4).requires_grad_();
  const torch::Tensor weight = random({67});
  const torch::Tensor upstream = random({3, 37, 67});
  const torch::Tensor y = rms_norm(x, weight, 1e-5);
  y.backward(upstream);
  const torch::Tensor wide = leaf(x);
  const torch::Tensor expected =
      weight.to(torch::kFloat64) * wide * torch::rsqrt(wide.square().mean(-1, true) + 1e-5);
  expected.backward(upstream.to(torch::kFloat64));
  expect_near(y.detach(), expected.detach(), tolerance());
  expect_near(x.grad(), wide.grad(), tolerance());
}

TEST_P(FusedOps, RmsNormPlusOne) {
  torch::manual_seed(4);
  const torch::Tensor x = random({3, 37, 67}, 4).requires_grad_();
  const torch::Tensor weight = random({67});
  const torch::Tensor upstream = random({3, 37, 67});
  const torch::Tensor y = rms_norm(x, weight, 1e-5, RmsWeight::kPlusOne);
  y.backward(upstream);
  const torch::Tensor wide = leaf(x);
  const torch::Tensor expected =
      (weight.to(torch::kFloat64) + 1) * wide * torch::rsqrt(wide.square().mean(-1, true) + 1e-5);
  expected.backward(upstream.to(torch::kFloat64));
  expect_near(y.detach(), expected.detach(), tolerance());
  expect_near(x.grad(), wide.grad(), tolerance());
}

TEST_P(FusedOps, Swiglu) {
  torch::manual_seed(2);
  const torch::Tensor gate = random({5, 1001}, 5).requires_grad_();
  const torch::Tensor up = random({5, 1001}).requires_grad_();
  const torch::Tensor upstream = random({5, 1001});
  const torch::Tensor y = swiglu(gate, up);
  y.backward(upstream);
  const torch::Tensor wide_gate = leaf(gate);
  const torch::Tensor wide_up = leaf(up);
  const torch::Tensor expected = torch::silu(wide_gate) * wide_up;
  expected.backward(upstream.to(torch::kFloat64));
  expect_near(y.detach(), expected.detach(), tolerance());
  expect_near(gate.grad(), wide_gate.grad(), tolerance());
  expect_near(up.grad(), wide_up.grad(), tolerance());
}

TEST_P(FusedOps, Geglu) {
  torch::manual_seed(6);
  const torch::Tensor gate = random({5, 1001}, 3).requires_grad_();
  const torch::Tensor up = random({5, 1001}).requires_grad_();
  const torch::Tensor upstream = random({5, 1001});
  const torch::Tensor y = geglu(gate, up);
  y.backward(upstream);
  const torch::Tensor wide_gate = leaf(gate);
  const torch::Tensor wide_up = leaf(up);
  const torch::Tensor expected = torch::gelu(wide_gate, "tanh") * wide_up;
  expected.backward(upstream.to(torch::kFloat64));
  expect_near(y.detach(), expected.detach(), tolerance());
  expect_near(gate.grad(), wide_gate.grad(), tolerance());
  expect_near(up.grad(), wide_up.grad(), tolerance());
}

// Rows longer and shorter than what a thread takes at a time.
TEST_P(FusedOps, GatesOfHalvesAreThoseOfTwoTensors) {
  torch::manual_seed(7);
  for (const auto& shape : {std::vector<std::int64_t>{2, 3, 2 * 17}, {3, 2 * 20011}, {0, 2 * 4}, {2 * 5}}) {
    for (const auto& [joined_op, op] : {std::pair{&swiglu_of_halves, &swiglu}, std::pair{&geglu_of_halves, &geglu}}) {
      const torch::Tensor joined = random(shape, 3).requires_grad_();
      const torch::Tensor y = joined_op(joined);
      const torch::Tensor upstream = torch::randn(y.sizes()).to(GetParam());
      y.backward(upstream);
      const torch::Tensor other = joined.detach().clone().requires_grad_();
      const auto halves = other.chunk(2, -1);
      const torch::Tensor expected = op(halves[0], halves[1]);
      expected.backward(upstream);
      EXPECT_TRUE(torch::equal(y, expected));
      EXPECT_TRUE(torch::equal(joined.grad(), other.grad()));
    }
  }
}

TEST_P(FusedOps, GegluAtTheEndsOfTheRange) {
  const torch::Tensor gate = torch::tensor({-1e4f, -20.0f, 0.0f, 20.0f, 1e4f}).to(GetParam()).requires_grad_();
  const torch::Tensor y = geglu(gate, torch::ones_like(gate));
  y.sum().backward();
  EXPECT_TRUE(torch::allclose(y.to(torch::kFloat32), torch::relu(gate.to(torch::kFloat32)), 8e-3, 1e-6));
  EXPECT_TRUE(gate.grad().isfinite().all().item<bool>());
}

TEST_P(FusedOps, SwigluAtTheEndsOfTheRange) {
  const torch::Tensor gate = torch::tensor({-1e4f, -100.0f, -20.0f, 0.0f, 20.0f, 100.0f, 1e4f}).to(GetParam());
  const torch::Tensor y = swiglu(gate, torch::ones_like(gate));
  EXPECT_TRUE(y.isfinite().all().item<bool>());
  EXPECT_TRUE(torch::allclose(y.to(torch::kFloat32), torch::silu(gate.to(torch::kFloat32)), 8e-3, 1e-6));
}

TEST_P(FusedOps, Rope) {
  torch::manual_seed(3);
  const RopeTable table = rope_table(16);
  const torch::Tensor x = random({2, 9, 3, 16}).requires_grad_();
  const torch::Tensor upstream = random({2, 9, 3, 16});
  const torch::Tensor y = apply_rope(x, table);
  y.backward(upstream);
  const torch::Tensor wide = leaf(x);
  const auto halves = wide.chunk(2, -1);
  const torch::Tensor expected = wide * table.cos.to(torch::kFloat64).unsqueeze(1) +
                                 torch::cat({-halves[1], halves[0]}, -1) * table.sin.to(torch::kFloat64).unsqueeze(1);
  expected.backward(upstream.to(torch::kFloat64));
  expect_near(y.detach(), expected.detach(), tolerance());
  expect_near(x.grad(), wide.grad(), tolerance());
}

TEST_P(FusedOps, RopeOfAPartOfEachHead) {
  torch::manual_seed(5);
  const RopeTable table = rope_table(4);
  const torch::Tensor x = random({2, 9, 3, 16}).requires_grad_();
  const torch::Tensor upstream = random({2, 9, 3, 16});
  const torch::Tensor y = apply_rope(x, table);
  y.backward(upstream);
  const torch::Tensor wide = leaf(x);
  const torch::Tensor turned = wide.narrow(-1, 0, 4);
  const auto halves = turned.chunk(2, -1);
  const torch::Tensor expected = torch::cat(
      {turned * table.cos.to(torch::kFloat64).unsqueeze(1) +
           torch::cat({-halves[1], halves[0]}, -1) * table.sin.to(torch::kFloat64).unsqueeze(1),
       wide.narrow(-1, 4, 12)}, -1);
  expected.backward(upstream.to(torch::kFloat64));
  expect_near(y.detach(), expected.detach(), tolerance());
  expect_near(x.grad(), wide.grad(), tolerance());
}

INSTANTIATE_TEST_SUITE_P(Dtypes, FusedOps, ::testing::Values(torch::kFloat32, torch::kBFloat16));

}  // namespace
}  // namespace roundtable
