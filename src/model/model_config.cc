// Reading config.json.
#include "model/model_config.h"

#include "base/error.h"
#include "io/json_file.h"

namespace roundtable {
namespace {

constexpr std::int64_t kMaxDimension = std::int64_t{1} << 24;

// transformers 5 writes `rope_parameters`; before it there were `rope_theta` and an optional `rope_scaling`.
RopeConfig read_rope(const JsonObject& json) {
  RopeConfig rope;
  rope.theta = json.get_double_or("rope_theta", rope.theta, 1.0);
  const char* key = json.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!json.has(key)) return rope;
  const JsonObject scaling = json.get_object(key);
  rope.theta = scaling.get_double_or("rope_theta", rope.theta, 1.0);
  rope.type = scaling.get_string_or("rope_type", scaling.get_string_or("type", "default"));
  if (rope.type == "default") return rope;
  if (rope.type != "linear" && rope.type != "llama3") {
    scaling.fail("rope_type", fmt::format("'{}' is not supported", rope.type), "supported are default, linear, llama3");
  }
  rope.factor = scaling.get_double("factor", 1e-3);
  if (rope.type == "llama3") {
    rope.low_freq_factor = scaling.get_double("low_freq_factor", 1e-3);
    rope.high_freq_factor = scaling.get_double("high_freq_factor", 1e-3);
    rope.original_max_position_embeddings = scaling.get_int("original_max_position_embeddings", 1);
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      scaling.fail("high_freq_factor", "must be above low_freq_factor");
    }
  }
  return rope;
}

void check_activation(const JsonObject& json) {
  const std::string name = json.get_string_or("hidden_act", "silu");
  if (name != "silu" && name != "swish") {
    json.fail("hidden_act", fmt::format("'{}' is not supported", name), "supported is silu");
  }
}

std::int64_t read_sliding_window(const JsonObject& json, const std::string& model_type) {
  if (model_type == "llama") return 0;
  // Qwen2 states a window even where it does not use one; with one it starts at max_window_layers.
  if (model_type == "qwen2") {
    if (!json.get_bool_or("use_sliding_window", false)) return 0;
    json.fail("use_sliding_window", "windows that start at a layer are not supported", "set it to false for short samples");
  }
  return json.has("sliding_window") ? json.get_int("sliding_window", 1) : 0;
}

void read_biases(const JsonObject& json, ModelConfig& config) {
  if (config.model_type == "qwen2") {
    config.attention_bias = true;
    return;
  }
  config.attention_bias = json.get_bool_or("attention_bias", false);
  config.attention_out_bias = config.attention_bias;
  config.mlp_bias = json.get_bool_or("mlp_bias", false);
}

}  // namespace

std::string ModelConfig::block_name(std::int64_t block) const { return fmt::format("model.layers.{}", block); }

ModelConfig load_model_config(const std::string& directory) {
  const JsonObject json = JsonObject::load(directory + "/config.json");
  ModelConfig config;
  config.model_type = json.get_string("model_type");
  if (config.model_type != "llama" && config.model_type != "mistral" && config.model_type != "qwen2") {
    json.fail("model_type", fmt::format("'{}' is not supported", config.model_type),
              "supported are llama, mistral, qwen2");
  }
  check_activation(json);
  config.hidden_size = json.get_int("hidden_size", 1, kMaxDimension);
  config.intermediate_size = json.get_int("intermediate_size", 1, kMaxDimension);
  config.n_blocks = json.get_int("num_hidden_layers", 1, 100000);
  config.n_heads = json.get_int("num_attention_heads", 1, kMaxDimension);
  config.n_kv_heads = json.get_int_or("num_key_value_heads", config.n_heads, 1, kMaxDimension);
  config.head_dim = json.get_int_or("head_dim", config.hidden_size / config.n_heads, 2, kMaxDimension);
  config.vocab_size = json.get_int("vocab_size", 1, std::int64_t{1} << 30);
  config.max_position_embeddings = json.get_int_or("max_position_embeddings", 2048, 1);
  config.rms_norm_eps = json.get_double_or("rms_norm_eps", 1e-6, 0.0, 1.0);
  config.tie_word_embeddings = json.get_bool_or("tie_word_embeddings", false);
  config.sliding_window = read_sliding_window(json, config.model_type);
  read_biases(json, config);
  config.rope = read_rope(json);
  if (config.n_heads % config.n_kv_heads != 0) {
    json.fail("num_key_value_heads", fmt::format("{} does not divide num_attention_heads {}", config.n_kv_heads,
                                                 config.n_heads));
  }
  if (config.head_dim % 2 != 0) json.fail("head_dim", fmt::format("{} is odd", config.head_dim));
  return config;
}

}  // namespace roundtable
