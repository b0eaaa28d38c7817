// Sizes, activations, RoPE and windows.
#include "model/description/families/common.h"

#include <fmt/format.h>

#include <cmath>

#include "base/text.h"

namespace roundtable {
namespace {

bool keeps_original_length(const std::string& type) { return type == "llama3" || type == "yarn"; }

// The length before the scaling: beside the RoPE (Phi-3 keeps it there), in it, or the model's present one.
std::int64_t original_positions(const JsonObject& scaling, const JsonObject& json, const ModelConfig& config) {
  const char* key = "original_max_position_embeddings";
  if (json.has(key)) return json.get_int(key, 1);
  return scaling.get_int_or(key, config.max_position_embeddings, 1);
}

// transformers' get_mscale: YaRN's temperature.
double yarn_mscale(double scale, double mscale) { return scale <= 1 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0; }

void read_yarn(const JsonObject& scaling, RopeConfig& rope) {
  const double mscale = scaling.get_double_or("mscale", 0);
  const double all_dim = scaling.get_double_or("mscale_all_dim", 0);
  const double fallback = mscale != 0 && all_dim != 0
                              ? yarn_mscale(rope.factor, mscale) / yarn_mscale(rope.factor, all_dim)
                              : yarn_mscale(rope.factor, 1);
  rope.attention_factor = scaling.get_double_or("attention_factor", fallback, 0.0);
  rope.beta_fast = scaling.get_double_or("beta_fast", rope.beta_fast, 1e-6);
  rope.beta_slow = scaling.get_double_or("beta_slow", rope.beta_slow, 1e-6);
  rope.truncate = scaling.get_bool_or("truncate", true);
}

}  // namespace

void read_sizes(const JsonObject& json, ModelConfig& config, std::int64_t default_positions, const SizeKeys& keys) {
  config.hidden_size = json.get_int(keys.hidden_size, 1, kMaxDimension);
  config.n_blocks = json.get_int(keys.n_blocks, 1, 100000);
  config.n_heads = json.get_int(keys.n_heads, 1, kMaxDimension);
  config.n_kv_heads = json.get_int_or("num_key_value_heads", config.n_heads, 1, kMaxDimension);
  if (!json.has("head_dim") && config.hidden_size % config.n_heads != 0) {
    json.fail(keys.n_heads,
              fmt::format("{} does not divide {} {}", config.n_heads, keys.hidden_size, config.hidden_size));
  }
  config.head_dim = json.get_int_or("head_dim", config.hidden_size / config.n_heads, 1, kMaxDimension);
  config.vocab_size = json.get_int("vocab_size", 1, std::int64_t{1} << 30);
  config.max_position_embeddings =
      json.get_int_or(keys.max_position_embeddings, default_positions, 1, std::int64_t{1} << 40);
}

Activation read_activation(const JsonObject& json, const std::string& key, const std::string& fallback) {
  const std::string name = json.get_string_or(key, fallback);
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu" || name == "gelu_python") return Activation::kGelu;
  // One function, written in several ways (activations.py).
  for (const char* tanh : {"gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"}) {
    if (name == tanh) return Activation::kGeluTanh;
  }
  if (name == "relu") return Activation::kRelu;
  json.fail(key, fmt::format("'{}' is not supported", printable(name)),
            "supported are silu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu");
}

RopeConfig read_rope_object(const JsonObject& scaling, const JsonObject& json, const ModelConfig& config,
                            double theta) {
  RopeConfig rope;
  rope.max_position_embeddings = config.max_position_embeddings;
  rope.theta = scaling.get_double_or("rope_theta", theta, 1.0);
  rope.partial_rotary_factor = scaling.get_double_or(
      "partial_rotary_factor", json.get_double_or("partial_rotary_factor", 1.0, 0.0, 1.0), 0.0, 1.0);
  rope.type = scaling.get_string_or("rope_type", scaling.get_string_or("type", "default"));
  if (rope.type == "default") return rope;
  if (rope.type != "linear" && rope.type != "dynamic" && !keeps_original_length(rope.type)) {
    scaling.fail("rope_type", fmt::format("'{}' is not supported", printable(rope.type)),
                 "supported are default, linear, dynamic, llama3, yarn");
  }
  if (keeps_original_length(rope.type)) {
    rope.original_max_position_embeddings = original_positions(scaling, json, config);
  }
  // YaRN may leave the factor to the two lengths.
  const bool implied = rope.type == "yarn" && scaling.json().contains("factor") && !scaling.has("factor");
  rope.factor = implied ? static_cast<double>(config.max_position_embeddings) /
                              static_cast<double>(rope.original_max_position_embeddings)
                        : scaling.get_double("factor", 1e-3);
  if (rope.type == "yarn") read_yarn(scaling, rope);
  if (rope.type == "llama3") {
    rope.low_freq_factor = scaling.get_double("low_freq_factor", 1e-3);
    rope.high_freq_factor = scaling.get_double("high_freq_factor", 1e-3);
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      scaling.fail("high_freq_factor", "must be above low_freq_factor");
    }
  }
  return rope;
}

// transformers 5 writes `rope_parameters`; before it there were `rope_theta` and an optional `rope_scaling`.
const char* rope_key(const JsonObject& json) { return json.has("rope_scaling") ? "rope_scaling" : "rope_parameters"; }

RopeConfig read_rope(const JsonObject& json, const ModelConfig& config, double theta) {
  theta = json.get_double_or("rope_theta", theta, 1.0);
  const char* key = rope_key(json);
  const JsonObject none(nlohmann::json::object(), json.place());
  return read_rope_object(json.has(key) ? json.get_object(key) : none, json, config, theta);
}

std::int64_t read_window(const JsonObject& json) {
  return json.has("sliding_window") ? json.get_int("sliding_window", 1) : 0;
}

std::vector<bool> read_layer_types(const JsonObject& json, std::int64_t n_blocks,
                                   const std::function<bool(std::int64_t block)>& rule) {
  std::vector<bool> sliding;
  if (!json.has("layer_types")) {
    for (std::int64_t block = 0; block < n_blocks; ++block) sliding.push_back(rule(block));
    return sliding;
  }
  for (const std::string& type : json.get_strings("layer_types")) {
    if (type != "sliding_attention" && type != "full_attention") {
      json.fail("layer_types", fmt::format("'{}' is not supported", printable(type)),
                "supported are sliding_attention, full_attention");
    }
    sliding.push_back(type == "sliding_attention");
  }
  if (static_cast<std::int64_t>(sliding.size()) != n_blocks) {
    json.fail("layer_types", fmt::format("has {} entries for {} layers", sliding.size(), n_blocks));
  }
  return sliding;
}

void refuse_true(const JsonObject& json, const std::string& key, const std::string& meaning) {
  if (json.get_bool_or(key, false)) json.fail(key, fmt::format("is true: {} is not supported", meaning));
}

}  // namespace roundtable
