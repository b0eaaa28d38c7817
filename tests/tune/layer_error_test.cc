// The reported error of each layer against the formula written out.
#include "tune/losses/layer_error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/tune/tuner_fixture.h"

namespace roundtable {
namespace {

using testing::TinyProblem;

double relative(const torch::Tensor& x, const torch::Tensor& quantized, const torch::Tensor& exact) {
  const torch::Tensor y = torch::matmul(x, exact.t());
  return ((torch::matmul(x, quantized.t()) - y).square().sum() / y.square().sum()).item<double>();
}

struct Measured {
  TinyProblem problem;
  Block block = problem.block();
  States sample{problem.input.narrow(0, 2, 3), {}};
  std::vector<LayerError> errors;

  explicit Measured(std::int64_t iters, bool skip_first = false) {
    if (skip_first) problem.schemes[0].reset();
    SelfCommunicator alone;
    const Sampler sampler(SamplerKind::kStrata, 8, 4, 42, 0);
    BlockTuner(problem.unit(block), problem.samples({0, 8}), sampler, {.iters = iters}, alone).tune();
    errors = layer_errors(block, problem.weights.weights, problem.schemes, sample, alone);
  }
};

TEST(LayerError, IsThatOfTheLayersOutputOnItsOwnInput) {
  const Measured m(30);
  ASSERT_EQ(m.errors.size(), 7u);
  EXPECT_EQ(m.errors[0].name, "self_attn.q_proj");
  const torch::Tensor input = m.problem.input.narrow(0, 2, 3);
  const torch::Tensor x = input * (input.square().mean(-1, true) + m.problem.llama.norm_eps).rsqrt();
  const torch::Tensor& exact = m.problem.weights.weights[0];
  const torch::Tensor nearest = dequantize(round_to_nearest(exact, *m.problem.schemes[0]), torch::kFloat32);
  EXPECT_NEAR(m.errors[0].nearest, relative(x, nearest, exact), 1e-4 * m.errors[0].nearest);
  EXPECT_NEAR(m.errors[0].tuned, relative(x, m.block.linears()[0].weight, exact), 1e-4 * m.errors[0].tuned);
  EXPECT_NE(m.errors[0].tuned, m.errors[0].nearest);
}

TEST(LayerError, IsTheSameBeforeAndAfterWhereNothingWasTuned) {
  for (const LayerError& e : Measured(0).errors) {
    EXPECT_GT(e.nearest, 1e-4) << e.name;
    EXPECT_EQ(e.nearest, e.tuned) << e.name;
  }
}

TEST(LayerError, LeavesOutLayersIn16Bits) {
  const Measured m(1, true);
  ASSERT_EQ(m.errors.size(), 6u);
  EXPECT_EQ(m.errors[0].name, "self_attn.k_proj");
}

TEST(LayerError, LeavesTheBlocksOutputForTheNextOne) {
  const Measured m(1);
  const torch::Tensor expected = TinyProblem::run(m.block, m.problem.input.narrow(0, 2, 3));
  EXPECT_TRUE(torch::equal(m.sample.hidden, expected));
}

}  // namespace
}  // namespace roundtable
