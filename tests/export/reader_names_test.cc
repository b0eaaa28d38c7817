// The names that formats write for models whose experts are one tensor, and for text models inside of larger ones.
#include "export/reader_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "base/error.h"
#include "base/pattern.h"
#include "export/expert_layers.h"
#include "export/quantized_checkpoint.h"
#include "export/registry.h"
#include "io/json_file.h"
#include "tests/graph/stacked_graph.h"

namespace roundtable {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using nlohmann::json;

constexpr QuantScheme kW4{.bits = 4, .group_size = 32};

const json kWrapped{{"model_type", "gemma3"}, {"text_config", {{"model_type", "gemma3_text"}}}};

// All layers in one scheme, but for those in whose name `kept` is.
CheckpointScheme all_in(const Model& model, const QuantScheme& scheme, const std::string& kept = "") {
  CheckpointScheme checkpoint{scheme, std::nullopt, {}, {}};
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    for (const LinearSpec& own : model.linears(block)) {
      const LinearSpec linear = own.below(model.block_prefix(block));
      const bool stays = !kept.empty() && linear.name.find(kept) != std::string::npos;
      checkpoint.layers.push_back({linear, stays ? std::nullopt : std::optional(scheme)});
    }
    for (const LinearSpec& own : model.table(block).fixed) {
      checkpoint.layers.push_back({own.below(model.block_prefix(block)), std::nullopt});
    }
  }
  return checkpoint;
}

Model model_in(const std::string& prefix, const testing::TinyStacked& tiny = {}) {
  return testing::model_from(testing::inside_of_another(testing::stacked_files(tiny), prefix), kWrapped);
}

json config_of(const char* format, const Model& model, const CheckpointScheme& checkpoint) {
  return as_packed(format_named(format, ""))->quantization_config(checkpoint, model);
}

std::vector<std::string> keys_of(const json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

TEST(ExpertLayers, AreNamedAsEnginesReadThem) {
  struct Case {
    std::string gate_up, down;
    std::vector<std::string> names;  // of the second expert
  };
  const Case cases[] = {
      {"mlp.experts.gate_up_proj", "mlp.experts.down_proj",
       {"mlp.experts.1.gate_proj", "mlp.experts.1.up_proj", "mlp.experts.1.down_proj"}},
      {"feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj",
       {"feed_forward.experts.1.gate_proj", "feed_forward.experts.1.up_proj", "feed_forward.experts.1.down_proj"}},
      {"block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight",
       {"block_sparse_moe.experts.1.w1", "block_sparse_moe.experts.1.w3", "block_sparse_moe.experts.1.w2"}},
      {"mlp.experts.fc1.weight", "mlp.experts.fc2.weight", {"mlp.experts.1.fc1", "mlp.experts.1.fc2"}},
  };
  for (const Case& one : cases) {
    for (const bool by_turns : {false, true}) {
      const Model model =
          testing::model_from(testing::stacked_files({.by_turns = by_turns, .gate_up = one.gate_up, .down = one.down}));
      std::vector<std::string> names;
      std::int64_t rows = 0;
      for (const LinearSpec& linear : model.linears(0)) {
        if (!linear.stack || linear.stack->index != 1) continue;
        EXPECT_EQ(linear.stack->by_turns, by_turns);
        EXPECT_EQ(has_known_parts(linear), one.names.size() == 3);
        for (const LayerPart& part : parts_of(linear)) {
          names.push_back(part.linear.name);
          rows += part.linear.out;
          EXPECT_FALSE(part.linear.transposed);
          EXPECT_FALSE(part.linear.stack);
        }
      }
      EXPECT_EQ(names, one.names);
      EXPECT_EQ(rows, 2 * 32 + 64);
    }
  }
}

TEST(ExpertLayers, GateAndUpAreTakenApartAndPutTogether) {
  torch::manual_seed(3);
  const PackedFormat& format = *as_packed(format_named("auto_round:auto_gptq", ""));
  LinearSpec linear{"mlp.experts.2.gate_up_proj", 64, 32};
  linear.stack = StackPlace{"mlp.experts.gate_up_proj", 2, 4};
  const QuantizedWeight weight{kW4, torch::randint(0, 16, {64, 32}, torch::kUInt8),
                               torch::rand({64, 1}).to(torch::kFloat16).to(torch::kFloat32),
                               torch::full({64, 1}, 8, torch::kUInt8)};
  const std::vector<NamedTensor> tensors = pack_parts(format, linear, weight, torch::kFloat32);
  std::vector<std::string> names;
  for (const TensorSpec& spec : layout_of(format, linear, kW4, torch::kFloat32)) names.push_back(spec.name);
  EXPECT_THAT(names, ElementsAre("mlp.experts.2.gate_proj.qweight", "mlp.experts.2.gate_proj.qzeros",
                                 "mlp.experts.2.gate_proj.scales", "mlp.experts.2.up_proj.qweight",
                                 "mlp.experts.2.up_proj.qzeros", "mlp.experts.2.up_proj.scales"));
  EXPECT_TRUE(torch::equal(tensors[5].tensor.to(torch::kFloat32), weight.scale.slice(0, 32).t()));
  const TemporaryFolder folder;
  std::vector<TensorView> views;
  for (const NamedTensor& tensor : tensors) views.push_back(tensor.view());
  write_safetensors(folder.path() + "/x.safetensors", views);
  const SafetensorsFile file(folder.path() + "/x.safetensors");
  const QuantizedWeight read = unpack_parts(format, reader_of(file), linear, kW4);
  EXPECT_TRUE(torch::equal(read.q, weight.q));
  EXPECT_TRUE(torch::equal(read.scale, weight.scale));
  EXPECT_TRUE(holds_parts(format, reader_of(file), linear, weight, torch::kFloat32));
}

TEST(ExpertLayers, BiasesBelongToTheSingleLayers) {
  const ParameterSpec biases{"mlp.experts.gate_up_proj_bias", {2, 6}};
  const std::vector<BiasPart> parts = parts_of_biases(biases);
  ASSERT_EQ(parts.size(), 4U);
  EXPECT_EQ(parts[3].name, "mlp.experts.1.up_proj.bias");
  EXPECT_EQ(parts[3].expert, 1);
  EXPECT_TRUE(torch::equal(rows_of(torch::arange(6), parts[3].part), torch::tensor({3, 4, 5})));
  EXPECT_THAT(parts_of_biases({"self_attn.q_proj.bias", {64}}), IsEmpty());
  EXPECT_THAT(parts_of_biases({"mlp.router_bias", {2, 6}}), IsEmpty());
}

// A format that cannot hold the halves of a layer says so, although the whole would fit.
TEST(ExpertLayers, ObstaclesAreThoseOfTheParts) {
  const PackedFormat& gptq = *as_packed(format_named("auto_gptq", ""));
  LinearSpec linear{"mlp.experts.0.gate_up_proj", 96, 64};
  EXPECT_FALSE(obstacle_of_parts(gptq, linear, kW4));
  linear.stack = StackPlace{"mlp.experts.gate_up_proj", 0, 4};
  EXPECT_TRUE(obstacle_of_parts(gptq, linear, kW4));
}

TEST(ExpertLayers, WhatNoReaderLoadsIsRefused) {
  const Model model = testing::model_from(testing::stacked_files({.by_turns = true}), {{"model_type", "gpt_oss"}});
  const CheckpointScheme checkpoint = all_in(model, kW4);
  EXPECT_THAT(*obstacle(format_named("llm_compressor", ""), model, checkpoint), HasSubstr("gate and up by turns"));
  EXPECT_THAT(*obstacle(format_named("gguf", ""), model, checkpoint),
              HasSubstr("those that are: llama, mistral, qwen2, qwen3"));
  for (const char* format : {"auto_round", "auto_round:auto_gptq", "auto_gptq", "auto_awq", "qdq"}) {
    EXPECT_FALSE(obstacle(format_named(format, ""), model, checkpoint)) << format;
  }
  EXPECT_FALSE(obstacle(format_named("llm_compressor", ""), model, all_in(model, kW4, "experts")));
}

TEST(ReaderNames, ATextModelThatStandsAloneHasOneName) {
  const Model model = testing::model_from(testing::stacked_files({}));
  const CheckpointScheme checkpoint = all_in(model, kW4, "experts.3.down");
  const json round = config_of("auto_round", model, checkpoint);
  EXPECT_EQ(round["block_name_to_quantize"], "model.layers");
  EXPECT_THAT(keys_of(round["extra_config"]),
              UnorderedElementsAre("model.layers.0.mlp.experts.3.down_proj", "model.layers.0.mlp.router",
                                   "model.layers.1.mlp.experts.3.down_proj", "model.layers.1.mlp.router"));
  EXPECT_EQ(config_of("llm_compressor", model, checkpoint)["ignore"],
            json::array({"model.layers.0.mlp.experts.3.down_proj", "model.layers.0.mlp.router",
                         "model.layers.1.mlp.experts.3.down_proj", "model.layers.1.mlp.router", "lm_head"}));
}

// Of a layer and of experts that are kept: the names of each reader, and those of a vision tower, which must not match.
TEST(ReaderNames, OfAWrappedModelMatchInEveryReader) {
  for (const char* prefix : {"language_model.model.", "model.language_model.", "model."}) {
    const Model model = model_in(prefix);
    CheckpointScheme checkpoint = all_in(model, kW4, "0.mlp.experts");
    checkpoint.carried_over = {"vision_tower.encoder.layers.0.mlp.router.weight"};
    const ReaderNames names(model, checkpoint);
    ASSERT_TRUE(names.is_wrapped());
    std::vector<std::string> kept, quantized;
    for (const NamedLayer& layer : names.layers()) (layer.scheme ? quantized : kept).push_back(layer.name);
    const std::string p = prefix;
    EXPECT_THAT(kept, UnorderedElementsAre(p + "layers.0.mlp.experts", p + "layers.0.mlp.router",
                                           p + "layers.1.mlp.router"));
    EXPECT_THAT(quantized, UnorderedElementsAre(p + "layers.0.self_attn.o_proj", p + "layers.1.self_attn.o_proj",
                                                p + "layers.1.mlp.experts"));
    const Pattern router(names.pattern_of(p + "layers.0.mlp.router"), "");
    const Pattern experts(names.layers()[1].pattern, "");
    for (const char* reader : {"model.language_model.", "language_model.model.", "model."}) {
      const std::string r = reader;
      EXPECT_TRUE(router.is_in(r + "layers.0.mlp.router")) << reader;
      EXPECT_FALSE(router.is_in(r + "layers.10.mlp.router")) << reader;
      EXPECT_FALSE(router.is_in(r + "layers.0.mlp.router_proj")) << reader;
      EXPECT_TRUE(experts.is_in(r + "layers.0.mlp.experts")) << reader;
      EXPECT_TRUE(experts.is_in(r + "layers.0.mlp.experts.3.up_proj")) << reader;
      EXPECT_FALSE(experts.is_in(r + "layers.1.mlp.experts")) << reader;
      EXPECT_THAT(names.block_lists(), Contains(r + "layers"));
    }
    for (const char* other : {"vision_tower.encoder.", "model.vision_tower.encoder.", "visual."}) {
      EXPECT_FALSE(router.is_in(std::string(other) + "layers.0.mlp.router")) << other;
    }
  }
}

TEST(ReaderNames, PartsThatAreCarriedOverAreNamedByTheirRoots) {
  struct Case {
    const char* name;
    std::vector<std::string> parts;
  };
  const Case cases[] = {
      {"model.visual.blocks.0.attn.qkv.weight", {"visual"}},
      {"vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", {"vision_tower"}},
      {"model.multi_modal_projector.linear_1.weight", {"multi_modal_projector"}},
      {"mtp.layers.0.mlp.experts.0.up_proj.weight", {"mtp"}},
      {"thinker.audio_tower.layers.0.fc1.weight", {"audio_tower"}},
      {"model.layers.61.eh_proj.weight", {"layers.61"}},
      {"model.layers.1.mlp.unused.weight", {}},
      {"lm_head.weight", {}},
      {"image_newline", {}},
  };
  const Model model = testing::model_from(testing::stacked_files({}));
  for (const Case& one : cases) {
    CheckpointScheme checkpoint = all_in(model, kW4);
    checkpoint.carried_over = {one.name, one.name};
    EXPECT_EQ(ReaderNames(model, checkpoint).other_parts(), one.parts) << one.name;
  }
}

TEST(ReaderNames, EveryFormatListsWhatIsNotQuantized) {
  const Model model = model_in("language_model.model.");
  CheckpointScheme checkpoint = all_in(model, kW4);
  checkpoint.carried_over = {"vision_tower.encoder.layers.0.mlp.fc1.weight", "mtp.fc.weight"};
  const std::string before = "^(?:language_model\\.model|model\\.language_model|model)\\.layers\\.";
  const std::string router0 = before + "0\\.mlp\\.router$", router1 = before + "1\\.mlp\\.router$";
  const std::string tower = "(?:.*\\.)?vision_tower\\..*", mtp = "(?:.*\\.)?mtp\\..*";

  const json round = config_of("auto_round:auto_gptq", model, checkpoint);
  EXPECT_EQ(round["block_name_to_quantize"], "language_model.model.layers,model.language_model.layers,model.layers");
  EXPECT_THAT(keys_of(round["extra_config"]), UnorderedElementsAre(router0, router1, tower, mtp));
  for (const json& keys : round["extra_config"]) EXPECT_EQ(keys, json({{"bits", 16}, {"data_type", "float"}}));

  EXPECT_THAT(keys_of(config_of("auto_gptq", model, checkpoint)["dynamic"]),
              UnorderedElementsAre("-:" + router0, "-:" + router1, "-:" + tower, "-:" + mtp));
  EXPECT_EQ(config_of("auto_awq", model, checkpoint)["modules_to_not_convert"],
            json::array({"lm_head", "layers.0.mlp.router", "layers.1.mlp.router", "vision_tower", "model.vision_tower",
                         "mtp", "model.mtp"}));
  const json ignore =
      json::array({"re:" + router0, "re:" + router1, "re:^(?:.*\\.)?lm_head$", "re:" + tower, "re:" + mtp});
  EXPECT_EQ(config_of("llm_compressor", model, checkpoint)["ignore"], ignore);
  for (const auto& [format, scheme] : {std::pair{"mxfp4", QuantScheme{.group_size = 32, .type = WeightType::kMxFp4}},
                                       {"nvfp4", QuantScheme{.group_size = 16, .type = WeightType::kNvFp4}}}) {
    CheckpointScheme floats = all_in(model, scheme);
    floats.carried_over = checkpoint.carried_over;
    EXPECT_EQ(config_of(format, model, floats)["ignore"], ignore) << format;
  }
}

TEST(ReaderNames, SchemesOfAWrappedModelAreReadAsTheyWereWritten) {
  const Model model = model_in("language_model.model.");
  CheckpointScheme checkpoint = all_in(model, kW4);
  int i = 0;
  for (LayerScheme& layer : checkpoint.layers) {
    if (layer.scheme && i++ % 3 == 1) layer.scheme->bits = 8;
    if (layer.linear.name.find("layers.1.mlp.experts") != std::string::npos) layer.scheme->group_size = 16;
  }
  for (const char* name : {"auto_round", "auto_gptq", "llm_compressor"}) {
    const PackedFormat& format = *as_packed(format_named(name, ""));
    const SchemeOf scheme_of = format.read_schemes(format.quantization_config(checkpoint, model), "config.json");
    for (const LayerScheme& layer : written_layers(checkpoint)) {
      if (!layer.scheme) continue;
      EXPECT_EQ(scheme_of(layer.linear.name).bits, layer.scheme->bits) << name << " " << layer.linear.name;
      EXPECT_EQ(scheme_of(layer.linear.name).group_size, layer.scheme->group_size) << name << " " << layer.linear.name;
    }
  }
}

// A checkpoint of single experts gives the model's tensors: weights, in part floats, and biases.
TEST(QuantizedCheckpoint, PutsSingleExpertsTogether) {
  const PackedFormat& format = *as_packed(format_named("auto_round", ""));
  const Model model =
      testing::model_from(testing::stacked_files({.by_turns = true, .blocks = 1}), {{"model_type", "gpt_oss"}});
  const CheckpointScheme checkpoint = all_in(model, kW4, "experts.1.gate");
  const TemporaryFolder folder;
  save_json(folder.path() + "/config.json",
            {{"model_type", "gpt_oss"}, {"quantization_config", format.quantization_config(checkpoint, model)}});
  std::vector<NamedTensor> tensors;
  std::map<std::string, torch::Tensor> wanted;
  for (const LayerScheme& layer : checkpoint.layers) {
    if (!layer.linear.stack) continue;
    const LinearSpec& linear = layer.linear;
    const torch::Tensor weight = torch::randn({linear.out, linear.in});
    if (!layer.scheme) {
      for (const LayerPart& part : parts_of(linear)) {
        tensors.push_back({part.linear.weight().name, rows_of(weight, part)});
      }
      wanted[linear.weight().name] = weight;
      continue;
    }
    const QuantizedWeight quantized = round_to_nearest(weight, kW4);
    for (NamedTensor& tensor : pack_parts(format, linear, quantized, torch::kFloat32)) {
      tensors.push_back(std::move(tensor));
    }
    wanted[linear.weight().name] = dequantize(quantized, torch::kFloat32);
  }
  const ParameterSpec biases{"model.layers.0.mlp.experts.gate_up_proj_bias", {4, 64}};
  const torch::Tensor bias = torch::randn({4, 64});
  for (const BiasPart& part : parts_of_biases(biases)) {
    tensors.push_back({part.name, rows_of(bias[part.expert], part.part)});
  }
  std::vector<TensorView> views;
  for (const NamedTensor& tensor : tensors) views.push_back(tensor.view());
  write_safetensors(folder.path() + "/model.safetensors", views, {{"format", "pt"}});
  const auto source = open_tensor_source(folder.path());
  for (const LinearSpec& own : model.linears(0)) {
    const LinearSpec linear = own.below(model.block_prefix(0));
    if (!linear.stack) continue;
    EXPECT_TRUE(torch::equal(source->read(linear.weight()), wanted.at(linear.weight().name))) << linear.name;
  }
  EXPECT_TRUE(torch::equal(source->read(biases), bias));
}

}  // namespace
}  // namespace roundtable
