// config.json: what is read of it, and what is refused.
#include "model/description/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

nlohmann::json llama() {
  return {{"model_type", "llama"},      {"hidden_size", 64},        {"intermediate_size", 96},
          {"num_hidden_layers", 4},     {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"vocab_size", 512},          {"rms_norm_eps", 1e-5},     {"hidden_act", "silu"},
          {"max_position_embeddings", 1024}};
}

ModelConfig load(const nlohmann::json& json) {
  const TemporaryFolder folder;
  folder.put("config.json", json.dump());
  return load_model_config(folder.path());
}

void expect_refused(const nlohmann::json& json, const std::string& words) {
  try {
    load(json);
    FAIL() << "nothing was thrown for " << words;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_THAT(error.what(), ::testing::HasSubstr(words));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("config.json"));
  }
}

TEST(ModelConfig, OldAndNewRope) {
  nlohmann::json old = llama();
  old["rope_theta"] = 500000.0;
  old["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0},
                         {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  nlohmann::json fresh = llama();
  fresh["rope_parameters"] = old["rope_scaling"];
  fresh["rope_parameters"]["rope_theta"] = 500000.0;
  for (const auto& json : {old, fresh}) {
    const RopeConfig rope = load(json).rope;
    EXPECT_EQ(rope.type, "llama3");
    EXPECT_EQ(rope.theta, 500000.0);
    EXPECT_EQ(rope.factor, 8.0);
  }
}

TEST(ModelConfig, BiasesOfTheFamilies) {
  nlohmann::json json = llama();
  EXPECT_FALSE(load(json).attention_bias);
  json["model_type"] = "qwen2";  // with num_key_value_heads, whose default is 32
  EXPECT_TRUE(load(json).attention_bias);
  EXPECT_FALSE(load(json).attention_out_bias);
}

TEST(ModelConfig, RefusesWhatItCannotRun) {
  const auto with = [](const char* key, const nlohmann::json& value) {
    nlohmann::json json = llama();
    json[key] = value;
    return json;
  };
  expect_refused(with("model_type", "gpt_oss"), "llama, mistral, qwen2, qwen3, phi3, gemma2, gemma3_text, opt, gpt2");
  expect_refused(with("model_type", "gpt\noss"), "'gpt\\x0aoss' is not supported");
  expect_refused(with("hidden_act", "quick_gelu"), "hidden_act");
  expect_refused(with("hidden_size", -4), "hidden_size");
  expect_refused(with("hidden_size", "big"), "hidden_size");
  expect_refused(with("num_hidden_layers", 1e12), "num_hidden_layers");
  expect_refused(with("num_key_value_heads", 3), "num_key_value_heads");
  expect_refused(with("head_dim", 15), "head_dim");
  expect_refused(with("rope_scaling", {{"rope_type", "longrope"}, {"factor", 2.0}}), "longrope");
  expect_refused(with("rope_scaling", {{"rope_type", "yarn"}}), "rope_scaling.factor");
  expect_refused(with("rope_scaling", {{"rope_type", "dynamic"}, {"factor", "two"}}), "rope_scaling.factor");
  for (const double part : {1.5, 0.2}) {  // 0.2: 3 of 16 dimensions
    nlohmann::json phi = with("partial_rotary_factor", part);
    phi["model_type"] = "phi3";
    expect_refused(phi, part > 1 ? "partial_rotary_factor" : "head_dim");
  }
  nlohmann::json mistral = with("model_type", "mistral");
  mistral.erase("num_key_value_heads");
  expect_refused(mistral, "'num_key_value_heads': is missing, and its default 8 does not divide num_attention_heads 4");
  nlohmann::json missing = llama();
  missing.erase("vocab_size");
  expect_refused(missing, "vocab_size");
}

// The keys of a family that have no default, as its config.json has them.
nlohmann::json required_keys(const std::string& family) {
  if (family == "gpt2") return {{"n_embd", 64}, {"n_layer", 4}, {"n_head", 4}, {"vocab_size", 512}};
  nlohmann::json json = {
      {"hidden_size", 64}, {"num_hidden_layers", 4}, {"num_attention_heads", 4}, {"vocab_size", 512}};
  json[family == "opt" ? "ffn_dim" : family == "qwen3_moe" ? "moe_intermediate_size" : "intermediate_size"] = 96;
  if (family == "qwen3_moe") json["intermediate_size"] = 96;
  if (family == "qwen3_moe" || family == "mixtral") json["num_experts_per_tok"] = 2;
  if (family == "qwen3_moe") json["num_experts"] = 8;
  if (family == "mixtral") json["num_local_experts"] = 8;
  return json;
}

// The same as a whole config.json.
nlohmann::json config_of(const std::string& family) {
  nlohmann::json json = required_keys(family);
  json["model_type"] = family;
  json["num_key_value_heads"] = 2;  // not every family's default divides 4
  return json;
}

TEST(ModelConfig, EveryFamilyNamesTheKeyThatIsMissingOrIllTyped) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "opt", "gpt2",
                             "gpt_neox", "mixtral", "qwen3_moe"}) {
    const nlohmann::json required = required_keys(family);
    const nlohmann::json json = config_of(family);
    EXPECT_EQ(load(json).vocab_size, 512) << family;
    for (const auto& [key, value] : required.items()) {
      nlohmann::json without = json;
      without.erase(key);
      expect_refused(without, "'" + key + "': is missing");
      nlohmann::json wrong = json;
      wrong[key] = "many";
      expect_refused(wrong, "'" + key + "': must be an integer");
    }
  }
}

TEST(ModelConfig, FamiliesRefuseWhatTheyCannotRun) {
  const auto with = [](const char* family, const char* key, const nlohmann::json& value) {
    nlohmann::json json = config_of(family);
    json[key] = value;
    return json;
  };
  expect_refused(with("gemma2", "use_bidirectional_attention", true), "use_bidirectional_attention");
  expect_refused(with("gemma3_text", "layer_types", {"sliding_attention", "full_attention"}), "layer_types");
  expect_refused(with("gemma3_text", "layer_types", {"chunked_attention"}), "chunked_attention");
  expect_refused(with("opt", "layer_norm_elementwise_affine", false), "layer_norm_elementwise_affine");
  expect_refused(with("gpt2", "add_cross_attention", true), "add_cross_attention");
  expect_refused(with("mixtral", "num_experts_per_tok", 9), "num_experts_per_tok");
  expect_refused(with("qwen3_moe", "decoder_sparse_step", 2), "decoder_sparse_step");
  expect_refused(with("qwen3_moe", "mlp_only_layers", {0}), "mlp_only_layers");
  expect_refused(with("phi3", "rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}), "rope_scaling");
  expect_refused(with("gpt2", "n_head", 5), "n_head");
  expect_refused(with("gpt_neox", "head_dim", 32), "head_dim");
  EXPECT_EQ(load(with("gpt_neox", "head_dim", 16)).head_dim, 16);
  expect_refused(with("llama", "rope_scaling", {{"type", "linear"}, {"factor", 2.0}, {"partial_rotary_factor", 0.5}}),
                 "'rope_scaling.partial_rotary_factor': is not 1");
}

TEST(ModelConfig, OldNamesOfGemma3AndNeoxRopes) {
  nlohmann::json gemma = config_of("gemma3_text");
  gemma["rope_theta"] = 5000.0;
  gemma["rope_local_base_freq"] = 300.0;
  gemma["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  const ModelConfig config = load(gemma);
  EXPECT_EQ(config.rope.theta, 5000.0);
  EXPECT_EQ(config.rope.factor, 8.0);
  EXPECT_EQ(config.sliding_rope.theta, 300.0);
  EXPECT_EQ(config.sliding_rope.type, "default");
  EXPECT_TRUE(config.slides(0) && config.slides(3));

  nlohmann::json neox = config_of("gpt_neox");
  EXPECT_EQ(load(neox).rope.partial_rotary_factor, 0.25);
  neox["rotary_pct"] = 0.5;
  neox["rotary_emb_base"] = 2000;
  EXPECT_EQ(load(neox).rope.rotary_dim(16), 8);
  EXPECT_EQ(load(neox).rope.theta, 2000.0);
}

TEST(ModelConfig, WindowsOfTheFamilies) {
  nlohmann::json qwen = config_of("qwen2");
  qwen["sliding_window"] = 8;
  EXPECT_FALSE(load(qwen).slides(3));  // stated, and not used
  qwen["use_sliding_window"] = true;
  qwen["max_window_layers"] = 2;
  EXPECT_FALSE(load(qwen).slides(1));
  EXPECT_TRUE(load(qwen).slides(2));
  nlohmann::json gemma = config_of("gemma2");
  EXPECT_TRUE(load(gemma).slides(0));
  EXPECT_FALSE(load(gemma).slides(1));
}

}  // namespace
}  // namespace roundtable
