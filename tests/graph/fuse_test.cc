// The fusing passes: what they find, that a fused graph gives the values and the gradients of the plain one, and what
// they leave alone.
#include "graph/fuse/fuse.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "graph/run/program.h"
#include "tests/graph/llama_graph.h"

namespace roundtable::testing {
namespace {

struct Result {
  torch::Tensor out, gradient;
};

Result run(const GraphPart& part, const TensorsByName& constants, const TensorsByName& parameters,
           const torch::Tensor& x, const torch::Tensor& upstream) {
  const torch::Tensor leaf = x.detach().clone().requires_grad_();
  const torch::Tensor out = Program(part, constants, torch::kCPU).forward({leaf, {}, {}}, parameters).hidden;
  out.backward(upstream);
  return {out.detach(), leaf.grad()};
}

std::vector<std::string> operators_of(const GraphPart& part) {
  std::vector<std::string> names;
  for (const GraphNode& node : part.nodes) names.push_back(node.op);
  return names;
}

bool holds(const GraphPart& part, const std::string& op) {
  const auto names = operators_of(part);
  return std::find(names.begin(), names.end(), op) != names.end();
}

// Fuses the kind, compares it with the plain one and returns it.
GraphPart check(const GraphFiles& files, double tolerance, std::vector<std::int64_t> shape = {2, 8, 16}) {
  torch::manual_seed(5);
  const TemporaryFolder folder;
  const GraphManifest manifest = read_manifest(files.write(folder));
  const TensorsByName constants = read_constants(folder.path(), manifest);
  const GraphPart& plain = manifest.kinds.front();
  const GraphPart fused = fuse(plain, manifest.dtype);
  const TensorsByName parameters = random_parameters(plain);
  const torch::Tensor x = torch::randn(shape).to(manifest.dtype), upstream = torch::randn(shape).to(manifest.dtype);
  const Result wanted = run(plain, constants, parameters, x, upstream);
  const Result found = run(fused, constants, parameters, x, upstream);
  EXPECT_EQ(found.out.scalar_type(), wanted.out.scalar_type());
  EXPECT_LE(relative_difference(found.out, wanted.out), tolerance);
  EXPECT_LE(relative_difference(found.gradient, wanted.gradient), tolerance);
  return fused;
}

class Fuse : public ::testing::TestWithParam<torch::ScalarType> {
 protected:
  double tolerance() const { return GetParam() == torch::kFloat32 ? 2e-6 : 1e-2; }
};

TEST_P(Fuse, RmsNorm) {
  PartBuilder kind(GetParam());
  const json weight = kind.parameter("norm.weight", {16});
  kind.output(rms_norm_nodes(kind, kind.input("hidden"), weight, 1e-5));
  EXPECT_EQ(operators_of(check(model_of(kind, {8, 16}), tolerance())), std::vector<std::string>{"fused::rms_norm"});
}

TEST_P(Fuse, RmsNormOfOnePlusWeight) {
  PartBuilder kind(GetParam());
  const json weight = kind.parameter("norm.weight", {16});
  kind.output(plus_one_norm_nodes(kind, kind.input("hidden"), weight, 1e-5));
  EXPECT_EQ(operators_of(check(model_of(kind, {8, 16}), tolerance())), std::vector<std::string>{"fused::rms_norm"});
}

TEST_P(Fuse, GatedActivations) {
  for (const auto& [act, args, fused] : {std::tuple{"aten::silu", json::array(), "fused::swiglu"},
                                         std::tuple{"aten::gelu", json::array({"tanh"}), "fused::geglu"}}) {
    PartBuilder kind(GetParam());
    const json hidden = kind.input("hidden");
    const auto halves = kind.call_all("aten::chunk", {hidden, 2, -1}, 2);
    std::vector<json> of_act{halves[0]};
    for (const json& arg : args) of_act.push_back(arg);
    const json product = kind.call("aten::mul.Tensor", {halves[1], kind.call(act, of_act)});
    kind.output(kind.call("aten::cat", {json::array({product, product}), -1}));
    EXPECT_EQ(operators_of(check(model_of(kind, {8, 16}), tolerance())),
              (std::vector<std::string>{std::string(fused) + "_of_halves", "aten::cat"}));
  }
}

// Halves that are not gate and up in this order, or not along the last dimension, are two tensors.
TEST_P(Fuse, GatesOfOtherHalves) {
  const json last = json::array({2, -1}), first = json::array({2, 1}), three = json::array({4, -1});
  for (const auto& [cut, pieces, gate, up] : {std::tuple{last, 2, 1, 0}, {last, 2, 0, 0}, {last, 2, 1, 1}, {first, 2, 0, 1}, {three, 4, 0, 1}}) {
    PartBuilder kind(GetParam());
    const auto parts = kind.call_all("aten::chunk", {kind.input("hidden"), cut[0], cut[1]}, static_cast<std::size_t>(pieces));
    const json act = kind.call("aten::silu", {parts[static_cast<std::size_t>(gate)]});
    const json product = kind.call("aten::mul.Tensor", {act, parts[static_cast<std::size_t>(up)]});
    const json all = json::array({product, product, product, product});
    kind.output(kind.call("aten::reshape", {kind.call("aten::cat", {pieces == 4 ? all : json::array({product, product}), -1}),
                                            json::array({-1, 8, 16})}));
    EXPECT_TRUE(holds(check(model_of(kind, {8, 16}), tolerance()), "fused::swiglu"));
  }
}

TEST_P(Fuse, GeluWrittenOut) {
  PartBuilder kind(GetParam());
  const json x = kind.input("hidden");
  const json half = kind.call("aten::mul.Tensor", {x, 0.5});
  const json third = kind.call("aten::mul.Tensor", {kind.call("aten::pow.Tensor_Scalar", {x, 3.0}), 0.044715});
  const json inner = kind.call("aten::mul.Tensor", {kind.call("aten::add.Tensor", {x, third}), 0.7978845608028654});
  const json bend = kind.call("aten::add.Tensor", {kind.call("aten::tanh", {inner}), 1.0});
  kind.output(kind.call("aten::mul.Tensor", {half, bend}));
  EXPECT_EQ(operators_of(check(model_of(kind, {8, 16}), tolerance())), std::vector<std::string>{"fused::gelu"});
}

TEST_P(Fuse, Gelu) {
  PartBuilder kind(GetParam());
  kind.output(kind.call("aten::gelu", {kind.input("hidden"), "tanh"}));
  EXPECT_EQ(operators_of(check(model_of(kind, {8, 16}), tolerance())), std::vector<std::string>{"fused::gelu"});
  PartBuilder other(GetParam());  // the error function is another formula
  other.output(other.call("aten::gelu", {other.input("hidden")}));
  EXPECT_EQ(operators_of(check(model_of(other, {8, 16}), 0)), std::vector<std::string>{"aten::gelu"});
}

// Positions along dimension 2, as after a transpose, and along dimension 1.
TEST_P(Fuse, Rope) {
  const TinyLlama llama;  // heads of 16
  for (const bool heads_first : {true, false}) {
    PartBuilder kind(GetParam());
    const json hidden = kind.input("hidden"), cos = kind.input("constant", "cos"), sin = kind.input("constant", "sin");
    json x = kind.call("aten::view", {hidden, json::array({-1, 8, 2, 16})});
    if (heads_first) x = kind.call("aten::transpose.int", {x, 1, 2});
    json y = rope_nodes(kind, x, cos, sin, 8);
    if (heads_first) y = kind.call("aten::transpose.int", {y, 1, 2});
    kind.output(kind.call("aten::reshape", {y, json::array({-1, 8, 32})}));
    GraphFiles files = model_of(kind, {8, 32});
    add_rope_constants(files, llama, 8, GetParam());
    if (!heads_first) {
      for (auto& [name, table] : files.constants) table = table.view({1, 8, 1, 16});
    }
    const GraphPart fused = check(files, tolerance(), {2, 8, 32});
    EXPECT_TRUE(holds(fused, "fused::rope"));
    EXPECT_FALSE(holds(fused, "aten::cat"));
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Fuse, ::testing::Values(torch::kFloat32, torch::kBFloat16));

// Other ways to write the same.
TEST(FuseForms, SquaresAndRoots) {
  for (const char* square : {"aten::square", "aten::mul.Tensor"}) {
    PartBuilder kind;
    const json x = kind.input("hidden"), weight = kind.parameter("norm.weight", {16});
    const json power = std::string(square) == "aten::square" ? kind.call(square, {x}) : kind.call(square, {x, x});
    const json sum =
        kind.call("aten::add.Tensor", {kind.call("aten::mean.dim", {power, json::array({-1}), true}), 1e-6});
    const json root = kind.call("aten::pow.Tensor_Scalar", {sum, -0.5});
    kind.output(kind.call("aten::mul.Tensor", {kind.call("aten::mul.Tensor", {root, x}), weight}));
    EXPECT_EQ(operators_of(check(model_of(kind, {8, 16}), 2e-6)), std::vector<std::string>{"fused::rms_norm"});
  }
}

// Fused, and not what our kernels take: the fused operator is the formula.
TEST(FuseForms, DtypesThatDifferKeepTheirFormula) {
  PartBuilder kind(torch::kBFloat16);
  const json hidden = kind.input("hidden");
  const json weight = kind.parameter("norm.weight", {16});
  const json half = kind.parameter("half.weight", {16});
  const json wide = kind.call("aten::to.dtype", {hidden, {{"dtype", "float64"}}});
  const auto norm = [&](const json& x, const json& w, const char* to, bool plus_one) {
    const json up = kind.call("aten::to.dtype", {x, {{"dtype", "float32"}}});
    const json mean = kind.call("aten::mean.dim", {kind.call("aten::square", {up}), json::array({-1}), true});
    const json root = kind.call("aten::rsqrt", {kind.call("aten::add.Tensor", {mean, 1e-6})});
    const json quotient = kind.call("aten::mul.Tensor", {up, root});
    if (!plus_one) return kind.call("aten::mul.Tensor", {w, kind.call("aten::to.dtype", {quotient, {{"dtype", to}}})});
    const json one = kind.call("aten::add.Tensor", {kind.call("aten::to.dtype", {w, {{"dtype", "float32"}}}), 1});
    return kind.call("aten::to.dtype", {kind.call("aten::mul.Tensor", {quotient, one}), {{"dtype", to}}});
  };
  const json a = norm(wide, weight, "float32", false), b = norm(wide, half, "float64", true);
  const json gated = kind.call("aten::mul.Tensor", {kind.call("aten::silu", {a}), b});
  const json gelu = kind.call("aten::mul.Tensor", {kind.call("aten::gelu", {b, "tanh"}), gated});
  const auto halves = kind.call_all("aten::chunk", {gelu, 2, -1}, 2);
  const json joined = kind.call("aten::mul.Tensor", {kind.call("aten::silu", {halves[0]}), halves[1]});
  const json both = kind.call("aten::cat", {json::array({joined, joined}), -1});
  kind.output(kind.call("aten::to.dtype", {both, {{"dtype", "bfloat16"}}}));
  const GraphPart fused = check(model_of(kind, {8, 16}), 1e-6);
  EXPECT_EQ(operators_of(fused), (std::vector<std::string>{"aten::to.dtype", "fused::rms_norm", "fused::rms_norm",
                                                           "fused::swiglu", "fused::geglu", "fused::swiglu_of_halves",
                                                           "aten::cat", "aten::to.dtype"}));
}

TEST(FuseForms, ARotationThatIsNoTableKeepsItsFormula) {
  PartBuilder kind;
  const json x = kind.input("hidden"), cos = kind.input("constant", "cos"), sin = kind.input("constant", "sin");
  const json four = kind.call("aten::view", {x, json::array({-1, 8, 2, 8})});
  kind.output(
      kind.call("aten::reshape", {rope_nodes(kind, four, cos, sin, 3), json::array({-1, 8, 16})}));  // not halves
  GraphFiles files = model_of(kind, {8, 16});
  files.constants = {{"cos", torch::randn({1, 8, 1, 8})}, {"sin", torch::randn({1, 8, 1, 8})}};
  EXPECT_TRUE(holds(check(files, 1e-6), "fused::rope"));
}

// What the passes must not touch.
TEST(FuseForms, LeavesOthersAlone) {
  const auto fused = [](PartBuilder& kind, const json& y) {
    kind.output(y);
    const GraphPart part = check(model_of(kind, {8, 16}), 0);
    for (const std::string& op : operators_of(part)) EXPECT_FALSE(op.starts_with("fused::")) << op;
  };
  {  // the mean over another dimension
    PartBuilder kind;
    const json x = kind.input("hidden"), weight = kind.parameter("norm.weight", {16});
    const json mean = kind.call("aten::mean.dim", {kind.call("aten::square", {x}), json::array({1}), true});
    const json root = kind.call("aten::rsqrt", {kind.call("aten::add.Tensor", {mean, 1e-6})});
    fused(kind, kind.call("aten::mul.Tensor", {weight, kind.call("aten::mul.Tensor", {x, root})}));
  }
  {  // the square of something else
    PartBuilder kind;
    const json x = kind.input("hidden"), weight = kind.parameter("norm.weight", {16});
    const json other = kind.call("aten::add.Tensor", {x, 1});
    const json mean = kind.call("aten::mean.dim", {kind.call("aten::square", {other}), json::array({-1}), true});
    const json root = kind.call("aten::rsqrt", {kind.call("aten::add.Tensor", {mean, 1e-6})});
    fused(kind, kind.call("aten::mul.Tensor", {weight, kind.call("aten::mul.Tensor", {x, root})}));
  }
  {  // in bf16 without fp32 in between
    PartBuilder kind(torch::kBFloat16);
    const json x = kind.input("hidden"), weight = kind.parameter("norm.weight", {16});
    const json mean = kind.call("aten::mean.dim", {kind.call("aten::square", {x}), json::array({-1}), true});
    const json root = kind.call("aten::rsqrt", {kind.call("aten::add.Tensor", {mean, 1e-6})});
    fused(kind, kind.call("aten::mul.Tensor", {weight, kind.call("aten::mul.Tensor", {x, root})}));
  }
  {  // what comes between the gate and the product is written over
    PartBuilder kind;
    const json x = kind.input("hidden");
    const json act = kind.call("aten::silu", {x});
    kind.call("aten::add_.Tensor", {kind.call("aten::view_as", {act, x}), 1});
    fused(kind, kind.call("aten::mul.Tensor", {act, x}));
  }
  {  // a part without gradients
    PartBuilder kind;
    const json x = kind.input("hidden");
    fused(kind, kind.call("aten::mul.Tensor", {kind.call("aten::silu", {x}, /*no_grad=*/true), x}));
  }
  {  // another factor than GELU's
    PartBuilder kind;
    const json x = kind.input("hidden");
    const json third = kind.call("aten::mul.Tensor", {kind.call("aten::pow.Tensor_Scalar", {x, 3.0}), 0.05});
    const json inner = kind.call("aten::mul.Tensor", {kind.call("aten::add.Tensor", {x, third}), 0.7978845608028654});
    const json bend = kind.call("aten::add.Tensor", {kind.call("aten::tanh", {inner}), 1.0});
    kind.output(kind.call("aten::mul.Tensor", {kind.call("aten::mul.Tensor", {x, 0.5}), bend}));
    const GraphPart part = check(model_of(kind, {8, 16}), 0);
    EXPECT_FALSE(holds(part, "fused::gelu"));
  }
  {  // the exact GELU has no kernel of ours
    PartBuilder kind;
    const json x = kind.input("hidden");
    fused(kind, kind.call("aten::mul.Tensor", {kind.call("aten::gelu", {x}), x}));
  }
}

TEST(FuseForms, ALlamaBlockHasTwentyThreeNodes) {
  const GraphPart fused = check(llama_model({}, 12, torch::kFloat32), 1e-5, {2, 12, 64});
  EXPECT_EQ(fused.nodes.size(), 23U);
  const GraphPart bf16 = check(llama_model({}, 12, torch::kBFloat16), 2e-2, {2, 12, 64});
  EXPECT_EQ(operators_of(bf16), operators_of(fused));
}

}  // namespace
}  // namespace roundtable::testing
