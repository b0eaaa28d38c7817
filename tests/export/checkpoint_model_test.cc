// What formats know of a model, and the config.json of what is made of it.
#include "export/checkpoint_model.h"

#include <gtest/gtest.h>

#include "export/registry.h"
#include "graph/model.h"
#include "io/json_file.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

TEST(CheckpointModel, IsWhatAModelWithGraphsSaysOfItself) {
  const nlohmann::json config = {{"model_type", "llama"}, {"hidden_size", 8}};
  const Model graphs = testing::model_from(testing::llama_model({.tied = true}, 4, torch::kFloat32), config);
  const CheckpointModel model = graphs;
  EXPECT_EQ(model.config, config);
  EXPECT_EQ(model.type, "llama");
  EXPECT_EQ(model.n_blocks, graphs.n_blocks());
  EXPECT_EQ(model.first_block, "model.layers.0");
  EXPECT_EQ(model.embedding, "model.embed_tokens.weight");
  EXPECT_EQ(model.head_layer, "lm_head");
  EXPECT_TRUE(model.tied_head);
  EXPECT_FALSE(model.stored_head);
  EXPECT_TRUE(CheckpointModel(graphs.with_stored_head()).stored_head);
  EXPECT_FALSE(CheckpointModel(graphs.with_stored_head()).tied_head);
}

TEST(CheckpointModel, ConfigJsonSaysThatAHeadIsNotTiedWhereReadersLook) {
  const nlohmann::json text = {{"tie_word_embeddings", true}};
  nlohmann::json config = {{"tie_word_embeddings", true}, {"language", {{"text", text}, {"other", text}}}};
  untie_head(config, "language.text");
  EXPECT_EQ(config["tie_word_embeddings"], false);
  EXPECT_EQ(config["language"]["text"]["tie_word_embeddings"], false);
  EXPECT_EQ(config["language"]["other"]["tie_word_embeddings"], true);
  EXPECT_FALSE(config["language"].contains("tie_word_embeddings"));
}

TEST(CheckpointModel, AnEarlierQuantizationLeavesNothingInConfigJson) {
  const TemporaryFolder folder;
  const nlohmann::json old = {{"quant_method", "fp8"}};
  CheckpointModel model;
  model.first_block = "model.layers.0";
  model.config = {{"model_type", "x"},
                  {"quantization_config", old},
                  {"text_config", {{"hidden_size", 8}, {"compression_config", old}}}};
  const CheckpointScheme scheme;
  write_checkpoint_config(folder.path(), *as_safetensors(format_named("qdq", "")), scheme, model);
  nlohmann::json want = {{"model_type", "x"}, {"text_config", {{"hidden_size", 8}}}};
  EXPECT_EQ(load_json(folder.path() + "/config.json"), want);
  const auto names =
      write_checkpoint_config(folder.path(), *as_safetensors(format_named("auto_gptq", "")), scheme, model);
  EXPECT_EQ(names, (std::vector<std::string>{"quantize_config.json", "config.json"}));
  const nlohmann::json config = load_json(folder.path() + "/config.json");
  EXPECT_EQ(config["quantization_config"]["quant_method"], "gptq");
  EXPECT_EQ(config["quantization_config"], load_json(folder.path() + "/quantize_config.json"));
}

}  // namespace
}  // namespace roundtable
