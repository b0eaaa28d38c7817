// The tables of a model: layers, tensors and where they lie, what is carried, and the head.
#include "graph/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "graph/block_loader.h"
#include "tests/graph/tiny_models.h"

namespace roundtable::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

template <class List>
std::vector<std::string> names(const List& list) {
  std::vector<std::string> found;
  for (const auto& one : list) found.push_back(one.name);
  return found;
}

Model plain_model(const GraphFiles& files) { return {manifest_of(files), files.constants, {{"model_type", "llama"}}}; }

// Random tensors of a block, as they are read: [out, in] for linear layers.
BlockWeights random_block(const Model& model) {
  BlockWeights weights;
  const std::vector<PlacedTensor>& placed = model.table(0).placed;
  for (std::size_t i = 0; i < placed.size(); ++i) {
    (i < model.linears(0).size() ? weights.weights : weights.others).push_back(torch::randn(placed[i].spec.shape));
  }
  return weights;
}

// The table is that of the block that is made, layer by layer, and each weight is where it belongs.
void expect_layers_of_the_block(const Model& model) {
  torch::manual_seed(2);
  const BlockWeights weights = random_block(model);
  const Block block = BlockMaker(model, torch::kCPU).make(weights);
  const std::vector<LinearSpec>& linears = model.linears(0);
  ASSERT_EQ(names(linears), names(block.linears()));
  for (std::size_t i = 0; i < linears.size(); ++i) {
    EXPECT_EQ(block.linears()[i].weight.sizes(), (std::vector{linears[i].out, linears[i].in})) << linears[i].name;
    EXPECT_TRUE(torch::equal(block.linears()[i].weight, weights.weights[i])) << linears[i].name;
    EXPECT_EQ(model.table(0).placed[i].spec.shape, linears[i].weight().shape) << linears[i].name;
    EXPECT_EQ(model.table(0).placed[i].spec.tensor(), linears[i].weight().tensor()) << linears[i].name;
  }
}

// k_proj is kept by default, and o_proj too, which a second node takes: no product of ours can have its gradient.
TEST(Model, AKeptLayerBecomesALinearOneWhereItsProductAllows) {
  GraphFiles files = llama_model({.blocks = 2}, 16, torch::kFloat32);
  json& kind = files.model["kinds"][0];
  json o_proj;
  for (json& tensor : kind["tensors"]) {
    const bool kept = tensor["disk"] == "self_attn.k_proj.weight" || tensor["disk"] == "self_attn.o_proj.weight";
    if (kept) tensor["use"] = "kept";
  }
  for (const json& input : kind["inputs"]) {
    if (input.value("name", "") == "self_attn.o_proj.weight") o_proj = {{"v", input["value"]}};
  }
  kind["nodes"].push_back({{"op", "aten::neg"}, {"args", json::array({o_proj})}, {"out", json::array({kind["values"]})},
                           {"bytes", 0}, {"flops", 0}});
  kind["values"] = kind["values"].get<int>() + 1;
  files.model["operators"]["aten::neg"] = schema_text("aten::neg");
  const Model model = model_from(files);
  EXPECT_THAT(names(model.table(0).fixed), ElementsAre("self_attn.k_proj", "self_attn.o_proj"));
  EXPECT_THAT(model.table(0).by_rule, ElementsAre("self_attn.k_proj"));
  EXPECT_EQ(model.linears(0).size(), 5u);
  const Model more = model.with_linears([](const LinearSpec& linear) { return linear.name.ends_with("k_proj"); });
  EXPECT_THAT(names(more.linears(1)), ElementsAre("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                                  "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"));
  EXPECT_THAT(names(more.table(0).fixed), ElementsAre("self_attn.o_proj"));
  expect_layers_of_the_block(more);
}

TEST(Model, ALlamasTablesAreWhatItsCheckpointHolds) {
  const Model model = tiny_llama_model({.blocks = 3});
  EXPECT_EQ(model.n_blocks(), 3);
  EXPECT_EQ(model.block_prefix(2), "model.layers.2.");
  EXPECT_EQ(model.block_name(2), "model.layers.2");
  EXPECT_THAT(names(model.linears(2)),
              ElementsAre("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                          "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"));
  EXPECT_EQ(model.linears(0)[1].out, 32);
  EXPECT_EQ(model.linears(0)[6].in, 96);
  EXPECT_EQ(model.linears(0)[0].expert, -1);
  EXPECT_FALSE(model.linears(0)[0].stack);
  EXPECT_THAT(names(model.table(0).others), ElementsAre("input_layernorm.weight", "post_attention_layernorm.weight"));
  EXPECT_THAT(model.table(0).fixed, IsEmpty());
  EXPECT_EQ(model.table(0).placed.size(), 9U);
  EXPECT_THAT(names(model.outside()), ElementsAre("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"));
  EXPECT_EQ(model.embedding(), "model.embed_tokens.weight");
  EXPECT_FALSE(model.takes_tokens());
  expect_layers_of_the_block(model);
}

TEST(Model, ExpertsThatAreTensorsOfTheirOwn) {
  const Model model = tiny_mixtral_model();
  const std::vector<LinearSpec>& linears = model.linears(0);
  ASSERT_EQ(linears.size(), 4U + 4 * 3);
  EXPECT_EQ(linears[4].name, "block_sparse_moe.experts.0.w1");
  EXPECT_EQ(linears[5].name, "block_sparse_moe.experts.0.w3");
  EXPECT_EQ(linears[6].name, "block_sparse_moe.experts.1.w1");
  EXPECT_EQ(linears[15].name, "block_sparse_moe.experts.3.w2");
  EXPECT_EQ(linears[6].expert, 1);
  EXPECT_FALSE(linears[6].stack);
  EXPECT_THAT(names(model.table(0).fixed), ElementsAre("block_sparse_moe.gate"));
  EXPECT_EQ(model.table(0).fixed[0].out, 4);
  EXPECT_EQ(model.table(0).fixed[0].in, 64);
  EXPECT_THAT(names(model.table(0).others),
              ElementsAre("input_layernorm.weight", "post_attention_layernorm.weight", "block_sparse_moe.gate.weight"));
  expect_layers_of_the_block(model);
}

// Experts that one tensor holds, as [experts, in, out] on disk; next to it a plain one that is [in, out].
GraphFiles stacked_files() {
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json stack = kind.parameter("mlp.experts.down_proj", {3, 8, 4}, "linear", /*in_out=*/true);
  const json out = kind.parameter("mlp.out.weight", {4, 8}, "linear", /*in_out=*/true);
  const json bias = kind.parameter("mlp.out.bias", {8});
  const json x = kind.call("aten::reshape", {hidden, json::array({1, -1, 8})});
  const json y = kind.call("aten::bmm", {kind.call("aten::repeat", {x, json::array({3, 1, 1})}), stack});
  const json sum = kind.call("aten::sum.dim_IntList", {y, json::array({0})});
  kind.output(kind.call("aten::view_as", {kind.call("aten::addmm", {bias, sum, out}), hidden}));
  return model_of(kind, {4, 8});
}

TEST(Model, ExpertsInOneTensorHaveTheirPlaceInIt) {
  const Model model = plain_model(stacked_files());
  const std::vector<LinearSpec>& linears = model.linears(0);
  EXPECT_THAT(names(linears),
              ElementsAre("mlp.experts.0.down_proj", "mlp.experts.1.down_proj", "mlp.experts.2.down_proj", "mlp.out"));
  const LinearSpec second = linears[1].below("model.layers.0.");
  EXPECT_EQ(second.out, 4);
  EXPECT_EQ(second.in, 8);
  EXPECT_TRUE(second.transposed);
  EXPECT_EQ(second.expert, 1);
  ASSERT_TRUE(second.stack);
  EXPECT_EQ(second.stack->name, "model.layers.0.mlp.experts.down_proj");
  EXPECT_EQ(second.stack->index, 1);
  EXPECT_EQ(second.stack->experts, 3);
  EXPECT_EQ(second.weight().stored_shape(), (std::vector<std::int64_t>{8, 4}));
  EXPECT_EQ(linears[3].out, 8);
  EXPECT_TRUE(linears[3].transposed);
  EXPECT_FALSE(linears[3].stack);
  EXPECT_THAT(names(model.table(0).others), ElementsAre("mlp.out.bias"));
  expect_layers_of_the_block(model);
}

// By FORMAT.md: element [i, j] of the tensor on disk is at offset + i * stride[0] + j * stride[1] of the parameter.
TEST(MakeParameters, EveryTensorLandsWhereItsEntrySays) {
  torch::manual_seed(3);
  const Model model = plain_model(stacked_files());
  const BlockWeights weights = random_block(model);
  std::vector<torch::Tensor> tensors = weights.weights;
  tensors.insert(tensors.end(), weights.others.begin(), weights.others.end());
  const GraphPart& part = model.graphs().kinds[0];
  const TensorsByName made = make_parameters(part, model.table(0).placed, tensors, torch::kCPU);
  ASSERT_EQ(made.size(), 3U);
  const torch::Tensor& stack = made.at("mlp.experts.down_proj");
  EXPECT_EQ(stack.sizes(), (std::vector<std::int64_t>{3, 8, 4}));
  for (std::int64_t expert = 0; expert < 3; ++expert) {
    EXPECT_TRUE(torch::equal(stack[expert], weights.weights[static_cast<std::size_t>(expert)].t())) << expert;
  }
  EXPECT_TRUE(torch::equal(made.at("mlp.out.weight"), weights.weights[3].t()));
  EXPECT_TRUE(torch::equal(made.at("mlp.out.bias"), weights.others[0]));
}

TEST(MakeParameters, PartsOfOneParameterInterleaveAndAreConverted) {
  PartBuilder kind(torch::kBFloat16);
  const json weight = kind.bare_parameter("both.weight", {8, 8});
  kind.tensor("gate.weight", "both.weight", 0, {4, 8}, {16, 1});
  kind.tensor("up.weight", "both.weight", 8, {4, 8}, {16, 1});
  kind.output(kind.call("aten::linear", {kind.input("hidden"), weight}));
  const Model model = plain_model(model_of(kind, {4, 8}));
  const torch::Tensor gate = torch::randn({4, 8}), up = torch::randn({4, 8});
  const TensorsByName made = make_parameters(model.graphs().kinds[0], model.table(0).placed, {gate, up}, torch::kCPU);
  const torch::Tensor& both = made.at("both.weight");
  EXPECT_EQ(both.scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(torch::equal(both.slice(0, 0, 8, 2), gate.to(torch::kBFloat16)));
  EXPECT_TRUE(torch::equal(both.slice(0, 1, 8, 2), up.to(torch::kBFloat16)));
}

// Four blocks: the second gives what the fourth takes; the third takes what embed gives.
TEST(Model, CarriedTensorsGoAsFarAsTheyAreTaken) {
  PartBuilder plain, gives, takes;
  plain.output(plain.call("aten::neg", {plain.input("hidden")}));
  const json given = gives.input("hidden");
  gives.output(gives.call("aten::neg", {given}));
  gives.output(gives.call("aten::add.Tensor", {given, 1}), "carried", "own");
  const json taken = takes.input("hidden");
  takes.output(takes.call("aten::add.Tensor", {taken, takes.input("carried", "seen")}));
  GraphFiles files = model_of(plain, {4, 8}, 4);
  json& model = files.model;
  model["kinds"] = json::array({plain.part(), gives.part(), takes.part()});
  model["operators"].update(json(gives.operators()));
  for (const char* name : {"mask", "sum"}) model["boundary"][name] = model["boundary"]["hidden"];
  model["embed"]["outputs"].push_back({{"value", 2}, {"kind", "carried"}, {"name", "mask"}});
  for (const auto& [block, kind] : {std::pair{1, 1}, {2, 2}, {3, 2}}) model["blocks"][block]["kind"] = kind;
  model["blocks"][1]["gives"] = {{"own", "sum"}};
  model["blocks"][2]["takes"] = {{"seen", "mask"}};
  model["blocks"][3]["takes"] = {{"seen", "sum"}};
  const Model carried = plain_model(files);
  EXPECT_THAT(carried.carried_into(0), ElementsAre("mask"));
  EXPECT_THAT(carried.carried_into(1), ElementsAre("mask"));
  EXPECT_THAT(carried.carried_into(2), ElementsAre("mask", "sum"));
  EXPECT_THAT(carried.carried_into(3), ElementsAre("sum"));
  EXPECT_THAT(carried.carried_into(4), IsEmpty());
  EXPECT_EQ(carried.kinds(), 3U);
  EXPECT_EQ(carried.kind_of(2), 2U);
}

TEST(Model, AHeadThatIsTiedHasATensorOfItsOwnWhereTheCheckpointDoes) {
  const Model own = tiny_llama_model();
  ASSERT_TRUE(own.head());
  EXPECT_EQ(own.head()->name, "lm_head");
  EXPECT_EQ(own.head()->out, 32);
  EXPECT_EQ(own.head()->in, 64);
  EXPECT_EQ(own.tied_head(), "");

  const Model tied = tiny_llama_model({.tied = true});
  EXPECT_FALSE(tied.head());
  EXPECT_EQ(tied.tied_head(), "lm_head.weight");
  EXPECT_EQ(tied.head_layer(), "lm_head");
  EXPECT_EQ(tied.head_elements(), 32 * 64);
  EXPECT_THAT(tied.outside_linears(), IsEmpty());
  EXPECT_THAT(names(tied.outside()), ElementsAre("model.embed_tokens.weight", "model.norm.weight"));

  const Model stored = tied.with_stored_head();
  EXPECT_TRUE(stored.stored_head());
  EXPECT_FALSE(tied.stored_head());
  ASSERT_TRUE(stored.head());
  EXPECT_EQ(stored.head()->name, "lm_head");
  EXPECT_EQ(stored.tied_head(), "");
  EXPECT_NE(stored.digest(), tied.digest());
  EXPECT_EQ(names(stored.outside()), names(own.outside()));
}

TEST(Model, TensorsOfOtherPartsAreCarriedOver) {
  GraphFiles files = llama_model({}, 4, torch::kFloat32);
  files.model["untouched"] = {"vision.patch.weight"};
  files.model["ignored"] = {"^mtp\\.", "layers\\.9\\."};
  const Model model = plain_model(files);
  for (const char* name : {"vision.patch.weight", "mtp.fc.weight", "model.layers.9.mlp.up_proj.weight"}) {
    EXPECT_TRUE(model.is_carried_over(name)) << name;
  }
  for (const char* name : {"vision.patch.weight.scale", "model.mtp.weight", "model.layers.90.mlp.up_proj.weight"}) {
    EXPECT_FALSE(model.is_carried_over(name)) << name;
  }
}

TEST(Model, TheTextPartOfAConfigIsWhereTheGraphSays) {
  GraphFiles files = llama_model({}, 4, torch::kFloat32);
  const json config = {{"text_config", {{"hidden_size", 64}}}, {"hidden_size", 7}};
  const auto size = [&] { return model_from(files, config).text_config().at("hidden_size"); };
  EXPECT_EQ(size(), 7);
  files.model["text_config"] = "text_config";
  EXPECT_EQ(size(), 64);
  files.model["text_config"] = "another";
  EXPECT_EQ(size(), 7);
}

}  // namespace
}  // namespace roundtable::testing
