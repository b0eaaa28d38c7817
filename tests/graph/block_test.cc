// A block: its linear layers, where their gradients go, observers, experts; and a Llama block against its formula.
#include "graph/block.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <mutex>
#include <numeric>

#include "graph/model.h"
#include "tests/graph/llama_graph.h"
#include "tests/io/throws_error.h"

namespace roundtable::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using torch::Tensor;

struct Fixture {
  explicit Fixture(const GraphFiles& files) : manifest(read_manifest(files.write(folder))) {
    torch::manual_seed(6);
    constants = read_constants(folder.path(), manifest);
    kind = std::make_shared<BlockKind>(manifest, 0, constants, torch::kCPU);
    parameters = random_parameters(manifest.kinds[0]);
  }
  // By FORMAT.md: element [i, j] of the tensor on disk is at offset + i * stride[0] + j * stride[1] of the parameter.
  Block block() const {
    const Model model(manifest, constants, {});
    std::vector<Tensor> weights;
    for (std::size_t i = 0; i < model.linears(0).size(); ++i) {
      const PlacedTensor& placed = model.table(0).placed[i];
      weights.push_back(parameters.at(placed.param).as_strided(placed.spec.shape, placed.stride, placed.offset));
    }
    return {kind, manifest.blocks[0], parameters, weights};
  }

  TemporaryFolder folder;
  GraphManifest manifest;
  TensorsByName constants;
  std::shared_ptr<const BlockKind> kind;
  TensorsByName parameters;
};

std::vector<std::string> names_of(const Block& block) {
  std::vector<std::string> names;
  for (const Linear& linear : block.linears()) names.push_back(linear.name);
  return names;
}

// Runs the block and the plain graph. Compares outputs, gradients of the input, and of every tensor on disk that is a
// linear layer: take_gradient's with autograd's.
void expect_gradients_of_the_plain_graph(const Fixture& fixture, const Tensor& x, double tolerance) {
  Block block = fixture.block();
  std::map<std::string, Tensor> taken;
  std::mutex mutex;
  for (Linear& linear : block.linears()) {
    linear.weight = linear.weight.detach().clone().requires_grad_();
    linear.take_gradient = [&taken, &mutex, name = linear.name](const Tensor& gradient) {
      const std::scoped_lock lock(mutex);
      EXPECT_FALSE(taken.contains(name)) << name;
      taken[name] = gradient.detach().clone();
    };
  }
  TensorsByName leaves;
  for (const auto& [name, tensor] : fixture.parameters) leaves[name] = tensor.detach().clone().requires_grad_();
  const Tensor mine = x.detach().clone().requires_grad_(), theirs = x.detach().clone().requires_grad_();
  const Program plain(fixture.manifest.kinds[0], fixture.constants, torch::kCPU);
  const Tensor found = block.forward(mine), wanted = plain.forward({theirs, {}, {}}, leaves).hidden;
  const Tensor upstream = torch::randn(found.sizes()).to(found.scalar_type());
  found.backward(upstream);
  wanted.backward(upstream);
  EXPECT_LE(relative_difference(found.detach(), wanted.detach()), tolerance);
  EXPECT_LE(relative_difference(mine.grad(), theirs.grad()), tolerance);
  std::size_t compared = 0;
  for (const auto& [node, product] : products_of(fixture.manifest.kinds[0])) {
    for (const MatrixPlace& matrix : product.matrices) {
      if (matrix.use != TensorUse::kLinear) continue;
      Tensor gradient = leaves.at(product.weight).grad();
      if (gradient.dim() == 3) gradient = gradient[matrix.expert];
      if (product.in_out) gradient = gradient.t();
      gradient = gradient.slice(0, matrix.first, matrix.first + (matrix.rows - 1) * matrix.step + 1, matrix.step);
      ++compared;
      const bool worked = taken.contains(matrix.name);  // an expert without tokens has no gradient
      EXPECT_EQ(worked, gradient.abs().max().item<double>() > 0) << matrix.name;
      if (!worked) continue;
      EXPECT_LE(relative_difference(taken.at(matrix.name), gradient), tolerance) << matrix.name;
    }
  }
  EXPECT_EQ(compared, block.linears().size());
}

// --- dense layers
// -----------------------------------------------------------------------------------------------------

// q, k and v as one parameter with a bias: on disk three tensors, of which one is not quantized.
GraphFiles merged_model() {
  PartBuilder kind;
  const json weight = kind.bare_parameter("qkv.weight", {12, 8});
  kind.tensor("q.weight", "qkv.weight", 0, {4, 8}, {8, 1});
  kind.tensor("v.weight", "qkv.weight", 64, {4, 8}, {8, 1});
  kind.tensor("k.weight", "qkv.weight", 32, {4, 8}, {8, 1}, "kept");
  const json bias = kind.parameter("qkv.bias", {12});
  const json out = kind.parameter("o.weight", {12, 8}, "linear", /*in_out=*/true);
  const json out_bias = kind.parameter("o.bias", {8});
  const json y = kind.call("aten::linear", {kind.input("hidden"), weight, bias});
  const json flat = kind.call("aten::view", {kind.call("aten::tanh", {y}), json::array({-1, 12})});
  kind.output(kind.call("aten::view", {kind.call("aten::addmm", {out_bias, flat, out}), json::array({-1, 4, 8})}));
  return model_of(kind, {4, 8});
}

TEST(Block, ALayerIsATensorOnDisk) {
  const Fixture fixture(merged_model());
  const Block block = fixture.block();
  EXPECT_THAT(names_of(block), ElementsAre("q", "v", "o"));
  const Tensor& whole = fixture.parameters.at("qkv.weight");
  EXPECT_TRUE(torch::equal(block.linears()[1].weight, whole.narrow(0, 8, 4)));
  EXPECT_FALSE(block.linears()[1].weight.is_alias_of(whole));
  EXPECT_TRUE(torch::equal(block.linears()[1].bias, fixture.parameters.at("qkv.bias").narrow(0, 8, 4)));
  EXPECT_TRUE(torch::equal(block.linears()[2].weight, fixture.parameters.at("o.weight").t()));
  EXPECT_TRUE(block.linears()[2].weight.is_contiguous());
  EXPECT_TRUE(block.expert_tokens().empty());
  expect_gradients_of_the_plain_graph(fixture, torch::randn({3, 4, 8}), 1e-5);
}

TEST(Block, RowsOfTwoTensorsMayAlternate) {
  PartBuilder kind;
  const json weight = kind.bare_parameter("both.weight", {8, 8});
  kind.tensor("gate.weight", "both.weight", 0, {4, 8}, {16, 1});
  kind.tensor("up.weight", "both.weight", 8, {4, 8}, {16, 1});
  const json bias = kind.parameter("both.bias", {8});
  kind.output(kind.call("aten::linear", {kind.input("hidden"), weight, bias}));
  const Fixture fixture(model_of(kind, {4, 8}));
  EXPECT_TRUE(
      torch::equal(fixture.block().linears()[1].weight, fixture.parameters.at("both.weight").slice(0, 1, 8, 2)));
  expect_gradients_of_the_plain_graph(fixture, torch::randn({3, 4, 8}), 1e-5);
}

TEST(Block, AReplacedWeightCounts) {
  const Fixture fixture(merged_model());
  Block block = fixture.block();
  const Tensor x = torch::randn({1, 4, 8}), before = block.forward(x);
  block.linears()[0].weight = torch::zeros({4, 8});
  EXPECT_GT(relative_difference(block.forward(x), before), 1e-3);
}

TEST(Block, ObserversSeeWhatEntersAndLeaves) {
  const Fixture fixture(merged_model());
  Block block = fixture.block();
  std::vector<std::string> seen;
  block.set_observer([&](const Linear& linear, const Tensor& x, const Tensor& y) {
    EXPECT_TRUE(&linear >= block.linears().data() && &linear < block.linears().data() + block.linears().size());
    EXPECT_LE(relative_difference(y, torch::linear(x, linear.weight, linear.bias)), 1e-6);
    seen.push_back(linear.name);
  });
  const Tensor y = block.forward(torch::randn({2, 4, 8}));
  EXPECT_THAT(seen, ElementsAre("q", "v", "o"));
  block.set_observer({});
  block.forward(torch::randn({2, 4, 8}));
  EXPECT_EQ(seen.size(), 3U);
}

TEST(Block, AResultThatIsNotBoundarysIsAnError) {
  PartBuilder kind;
  kind.output(kind.call("aten::sum.dim_IntList", {kind.input("hidden"), json::array({-1})}));
  const Fixture fixture(model_of(kind, {4, 8}));
  EXPECT_BAD_INPUT(fixture.block().forward(torch::randn({2, 4, 8})),
                   AllOf(HasSubstr("kinds[0]"), HasSubstr("gives 'hidden' as [2, 4]"), HasSubstr("[2, 4, 8]")));
}

TEST(Block, TakesAndGivesCarriedTensors) {
  PartBuilder kind;
  const json hidden = kind.input("hidden"), seen = kind.input("carried", "seen");
  kind.output(kind.call("aten::mul.Tensor", {hidden, seen}));
  kind.output(kind.call("aten::add.Tensor", {hidden, 1}), "carried", "next");
  GraphFiles files = model_of(kind, {4, 8});
  for (const char* name : {"scale", "sum"}) files.model["boundary"][name] = files.model["boundary"]["hidden"];
  files.model["embed"]["outputs"].push_back({{"value", 2}, {"kind", "carried"}, {"name", "scale"}});
  files.model["blocks"][0]["takes"] = {{"seen", "scale"}};
  files.model["blocks"][0]["gives"] = {{"next", "sum"}};
  const Fixture fixture(files);
  const Tensor x = torch::randn({2, 4, 8});
  SideTensors side{{}, {{"scale", torch::full({2, 4, 8}, 3.0f)}}};
  EXPECT_TRUE(torch::equal(fixture.block().forward(x, side), 3 * x));
  EXPECT_TRUE(torch::equal(side.carried.at("sum"), x + 1));
}

// --- experts
// ----------------------------------------------------------------------------------------------------------

// Four experts with two tensors each on disk, of which the router's bias leaves the last without a token.
GraphFiles mixture_model() {
  PartBuilder kind;
  const json hidden = kind.input("hidden"), choice = kind.input("constant", "choice");
  const json up = kind.bare_parameter("experts.gate_up_proj", {4, 6, 8});
  for (int e = 0; e < 4; ++e) {
    const std::string expert = "experts." + std::to_string(e);
    kind.tensor(expert + ".gate_proj.weight", "experts.gate_up_proj", e * 48, {3, 8}, {8, 1});
    kind.tensor(expert + ".up_proj.weight", "experts.gate_up_proj", e * 48 + 24, {3, 8}, {8, 1});
  }
  const json down = kind.parameter("experts.down_proj", {4, 3, 8}, "linear", /*in_out=*/true);
  const json bias = kind.parameter("experts.down_proj_bias", {4, 8});
  const json x = kind.call("aten::reshape", {hidden, json::array({-1, 8})});
  const json scores = kind.call("aten::add.Tensor", {kind.call("aten::slice.Tensor", {x, 1, 0, 4}), choice});
  const auto best = kind.call_all("aten::topk", {kind.call("aten::softmax.int", {scores, -1}), 2}, 2);
  const auto rows = kind.call_all("rt::dispatch", {x, best[1], 4}, 3);
  const json y = kind.call("rt::expert_linear", {rows[0], up, nullptr, rows[1], false});
  const auto halves = kind.call_all("aten::chunk", {y, 2, -1}, 2);
  const json gated = kind.call("aten::mul.Tensor", {kind.call("aten::silu", {halves[0]}), halves[1]});
  const json z = kind.call("rt::expert_linear", {gated, down, bias, rows[1], true});
  kind.output(kind.call("aten::view_as", {kind.call("rt::combine", {z, best[0], rows[2]}), hidden}));
  GraphFiles files = model_of(kind, {4, 8});
  files.constants["choice"] = torch::tensor({0.0f, 0.0f, 0.0f, -100.0f});
  return files;
}

TEST(Block, ExpertsAreLayersOfTheirOwn) {
  const Fixture fixture(mixture_model());
  Block block = fixture.block();
  EXPECT_THAT(names_of(block),
              ElementsAre("experts.0.gate_proj", "experts.0.up_proj", "experts.1.gate_proj", "experts.1.up_proj",
                          "experts.2.gate_proj", "experts.2.up_proj", "experts.3.gate_proj", "experts.3.up_proj",
                          "experts.0.down_proj", "experts.1.down_proj", "experts.2.down_proj", "experts.3.down_proj"));
  EXPECT_TRUE(torch::equal(block.linears()[10].weight, fixture.parameters.at("experts.down_proj")[2].t()));
  EXPECT_TRUE(torch::equal(block.linears()[10].bias, fixture.parameters.at("experts.down_proj_bias")[2]));
  expect_gradients_of_the_plain_graph(fixture, torch::randn({3, 4, 8}), 1e-5);
}

TEST(Block, CountsTheTokensOfExperts) {
  const Fixture fixture(mixture_model());
  Block block = fixture.block();
  std::map<std::string, std::int64_t> observed;
  block.set_observer([&](const Linear& linear, const Tensor& x, const Tensor&) { observed[linear.name] += x.size(0); });
  block.forward(torch::randn({3, 4, 8}));
  block.forward(torch::randn({2, 4, 8}));
  const std::vector<std::int64_t> tokens = block.expert_tokens();
  ASSERT_EQ(tokens.size(), 4U);
  EXPECT_EQ(std::accumulate(tokens.begin(), tokens.end(), std::int64_t{0}), 5 * 4 * 2);
  EXPECT_EQ(tokens[3], 0);
  for (std::size_t e = 0; e < 4; ++e) EXPECT_EQ(observed["experts." + std::to_string(e) + ".up_proj"], tokens[e]);
  block.clear_expert_tokens();
  EXPECT_THAT(block.expert_tokens(), ElementsAre(0, 0, 0, 0));
}

// All tokens choose what is no expert: nothing runs, and the block's output is zeros.
TEST(Block, ExpertsWithoutAnyTokenGiveZeros) {
  PartBuilder kind;
  const json hidden = kind.input("hidden"), index = kind.input("constant", "index");
  const json weight = kind.parameter("w", {2, 8, 8}, "linear");
  const json x = kind.call("aten::reshape", {hidden, json::array({-1, 8})});
  const auto rows = kind.call_all("rt::dispatch", {x, index, 2}, 3);
  const json y = kind.call("rt::expert_linear", {rows[0], weight, nullptr, rows[1], false});
  const json ones = kind.call("aten::new_ones", {x, json::array({4, 1})});
  kind.output(kind.call("aten::view_as", {kind.call("rt::combine", {y, ones, rows[2]}), hidden}));
  GraphFiles none = model_of(kind, {4, 8});
  none.constants["index"] = torch::full({4, 1}, 2);
  const Fixture fixture(none);
  EXPECT_TRUE(torch::equal(fixture.block().forward(torch::randn({1, 4, 8})), torch::zeros({1, 4, 8})));
}

// Llama 4's way: every expert works on all tokens.
TEST(Block, BatchedProductsAreLayersToo) {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json weight = kind.parameter("experts.down_proj", {3, 8, 8}, "linear", /*in_out=*/true);
  const json x = kind.call("aten::reshape", {hidden, json::array({1, -1, 8})});
  const json y = kind.call("aten::bmm", {kind.call("aten::repeat", {x, json::array({3, 1, 1})}), weight});
  const json sum = kind.call("aten::sum.dim_IntList", {kind.call("aten::tanh", {y}), json::array({0})});
  kind.output(kind.call("aten::view_as", {sum, hidden}));
  const Fixture fixture(model_of(kind, {4, 8}));
  EXPECT_THAT(names_of(fixture.block()),
              ElementsAre("experts.0.down_proj", "experts.1.down_proj", "experts.2.down_proj"));
  expect_gradients_of_the_plain_graph(fixture, torch::randn({3, 4, 8}), 1e-5);
}

TEST(Block, ABatchedProductOfAnotherNumberOfExpertsIsAnError) {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json weight = kind.parameter("w", {3, 8, 8}, "linear", /*in_out=*/true);
  kind.output(kind.call("aten::bmm", {hidden, weight}));
  const Fixture fixture(model_of(kind, {4, 8}));
  EXPECT_BAD_INPUT(fixture.block().forward(torch::randn({2, 4, 8})), HasSubstr("one matrix per expert"));
}

// --- against the formula
// -----------------------------------------------------------------------------------------------------

Tensor norm_formula(const Tensor& x, const Tensor& weight, double eps) {
  return weight * x * (x.square().mean(-1, true) + eps).rsqrt();
}

// x [batch, heads, seqlen, head_dim]: dimensions i and i + half are turned by position * theta^(-2i / head_dim).
Tensor rope_formula(const Tensor& x, double theta) {
  const std::int64_t half = x.size(3) / 2;
  const Tensor exponents = torch::arange(half).to(torch::kFloat64) * (-1.0 / static_cast<double>(half));
  const Tensor angles = torch::arange(x.size(2)).to(torch::kFloat64).unsqueeze(1) * torch::pow(theta, exponents);
  const Tensor cos = angles.cos().to(torch::kFloat32), sin = angles.sin().to(torch::kFloat32);
  const Tensor a = x.narrow(3, 0, half), b = x.narrow(3, half, half);
  return torch::cat({a * cos - b * sin, b * cos + a * sin}, -1);
}

Tensor llama_formula(const TinyLlama& llama, const TensorsByName& weights, const Tensor& hidden) {
  const std::int64_t batch = hidden.size(0), seqlen = hidden.size(1);
  const auto times = [&](const Tensor& x, const std::string& name) {
    return torch::matmul(x, weights.at(name + ".weight").t());
  };
  const Tensor x = norm_formula(hidden, weights.at("input_layernorm.weight"), llama.norm_eps);
  const auto by_head = [&](const std::string& name) {
    return times(x, "self_attn." + name).view({batch, seqlen, -1, llama.head_dim}).transpose(1, 2);
  };
  const std::int64_t shared = llama.heads / llama.kv_heads;
  const Tensor q = rope_formula(by_head("q_proj"), llama.theta);
  const Tensor k = rope_formula(by_head("k_proj"), llama.theta).repeat_interleave(shared, 1);
  const Tensor v = by_head("v_proj").repeat_interleave(shared, 1);
  const Tensor scores = torch::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(llama.head_dim));
  const Tensor later = torch::ones({seqlen, seqlen}, torch::kBool).triu(1);
  const Tensor mixed = torch::matmul(torch::softmax(scores.masked_fill(later, -INFINITY), -1), v);
  const Tensor middle = hidden + times(mixed.transpose(1, 2).reshape({batch, seqlen, -1}), "self_attn.o_proj");
  const Tensor y = norm_formula(middle, weights.at("post_attention_layernorm.weight"), llama.norm_eps);
  return middle + times(torch::silu(times(y, "mlp.gate_proj")) * times(y, "mlp.up_proj"), "mlp.down_proj");
}

// bf16 against the formula in fp32 on the same numbers.
TEST(Block, ALlamaBlockIsItsFormula) {
  const TinyLlama llama;
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const double tolerance = dtype == torch::kFloat32 ? 1e-5 : 3e-2;
    const Fixture fixture(llama_model(llama, 12, dtype));
    Block block = fixture.block();
    std::map<std::string, Tensor> taken;
    for (Linear& linear : block.linears()) {
      linear.weight = linear.weight.detach().clone().requires_grad_();
      linear.take_gradient = [&taken, &linear](const Tensor& gradient) {
        taken[linear.name] = gradient.detach().clone();
      };
    }
    TensorsByName weights;
    for (const auto& [name, tensor] : fixture.parameters) {
      weights[name] = tensor.detach().to(torch::kFloat32).clone().requires_grad_();
    }
    const Tensor x = torch::randn({3, 12, 64}).to(dtype).requires_grad_();
    const Tensor same = x.detach().to(torch::kFloat32).clone().requires_grad_();
    const Tensor found = block.forward(x), wanted = llama_formula(llama, weights, same);
    if (dtype == torch::kFloat32) EXPECT_TRUE(torch::allclose(found, wanted, 1e-5, 1e-5));
    EXPECT_LE(relative_difference(found.detach(), wanted.detach()), tolerance);
    const Tensor upstream = torch::randn({3, 12, 64}).to(dtype);
    found.backward(upstream);
    wanted.backward(upstream.to(torch::kFloat32));
    EXPECT_LE(relative_difference(x.grad(), same.grad()), tolerance);
    EXPECT_EQ(taken.size(), 7U);
    for (const auto& [name, gradient] : taken) {
      EXPECT_LE(relative_difference(gradient, weights.at(name + ".weight").grad()), tolerance) << name;
    }
  }
}

}  // namespace
}  // namespace roundtable::testing
