// config.json: what is read of it, and what is refused.
#include "model/model_config.h"

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
  json["model_type"] = "qwen2";
  EXPECT_TRUE(load(json).attention_bias);
  EXPECT_FALSE(load(json).attention_out_bias);
}

TEST(ModelConfig, RefusesWhatItCannotRun) {
  const auto with = [](const char* key, const nlohmann::json& value) {
    nlohmann::json json = llama();
    json[key] = value;
    return json;
  };
  expect_refused(with("model_type", "gpt_oss"), "llama, mistral, qwen2");
  expect_refused(with("hidden_act", "gelu"), "hidden_act");
  expect_refused(with("hidden_size", -4), "hidden_size");
  expect_refused(with("hidden_size", "big"), "hidden_size");
  expect_refused(with("num_hidden_layers", 1e12), "num_hidden_layers");
  expect_refused(with("num_key_value_heads", 3), "num_key_value_heads");
  expect_refused(with("head_dim", 15), "head_dim");
  expect_refused(with("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}), "yarn");
  nlohmann::json missing = llama();
  missing.erase("vocab_size");
  expect_refused(missing, "vocab_size");
}

}  // namespace
}  // namespace roundtable
