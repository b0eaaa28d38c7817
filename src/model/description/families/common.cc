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
  config.vocab_size = json.get_int("vocab_size", 1, std::int64_t{1} << 30);
  config.max_position_embeddings =
      json.get_int_or(keys.max_position_embeddings, default_positions, 1, std::int64_t{1} << 40);
}

void read_plain_heads(const JsonObject& json, ModelConfig& config, const SizeKeys& keys) {
  if (config.hidden_size % config.n_heads != 0) {
    json.fail(keys.n_heads,
              fmt::format("{} does not divide {} {}", config.n_heads, keys.hidden_size, config.hidden_size));
  }
  config.n_kv_heads = config.n_heads;
  config.head_dim = config.hidden_size / config.n_heads;
}

void read_heads(const JsonObject& json, ModelConfig& config, std::int64_t default_kv_heads,
                std::int64_t default_head_dim) {
  const char* kv_heads = "num_key_value_heads";
  if (json.has("head_dim") || default_head_dim > 0) {
    config.n_kv_heads = config.n_heads;
    config.head_dim = json.get_int_or("head_dim", default_head_dim, 1, kMaxDimension);
  } else {
    read_plain_heads(json, config);
  }
  if (default_kv_heads > 0 && !json.json().contains(kv_heads)) config.n_kv_heads = default_kv_heads;
  config.n_kv_heads = json.get_int_or(kv_heads, config.n_kv_heads, 1, kMaxDimension);
}

void read_like_llama(const JsonObject& json, ModelConfig& config, const LlamaDefaults& defaults) {
  read_sizes(json, config, defaults.positions);
  read_heads(json, config, defaults.kv_heads, defaults.head_dim);
  config.intermediate_size = json.get_int("intermediate_size", 1, kMaxDimension);
  config.norm_eps = json.get_double_or("rms_norm_eps", defaults.norm_eps, 0.0, 1.0);
  config.activation = read_activation(json, "hidden_act", "silu");
  config.tie_word_embeddings = json.get_bool_or("tie_word_embeddings", false);
  config.rope = read_rope(json, config, defaults.theta);
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

// transformers 5 writes `rope_parameters`; before it there were `rope_theta` and an optional `rope_scaling`. If both
// are there, the old one counts, unless it is null or empty (modeling_rope_utils.py, convert_rope_params_to_dict).
JsonObject rope_object(const JsonObject& json) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!json.has(key)) continue;
    const JsonObject object = json.get_object(key);
    if (!object.json().empty()) return object;
  }
  return JsonObject(nlohmann::json::object(), json.place());
}

RopeConfig read_rope(const JsonObject& json, const ModelConfig& config, double theta) {
  const JsonObject object = rope_object(json);
  const RopeConfig rope = read_rope_object(object, json, config, json.get_double_or("rope_theta", theta, 1.0));
  if (rope.type == "default") return rope;  // its frequencies know no part
  const char* part = "partial_rotary_factor";
  const double outer = json.get_double_or(part, 1.0);
  if (object.get_double_or(part, outer) != 1) {
    (object.has(part) ? object : json).fail(part, "is not 1: this family rotates whole heads");
  }
  return rope;
}

std::int64_t read_window(const JsonObject& json, std::int64_t fallback) {
  if (!json.json().contains("sliding_window")) return fallback;
  return json.has("sliding_window") ? json.get_int("sliding_window", 1) : 0;
}

void read_upper_windows(const JsonObject& json, ModelConfig& config) {
  if (!json.get_bool_or("use_sliding_window", false)) return;
  config.sliding_window = read_window(json, 4096);
  const std::int64_t first = json.get_int_or("max_window_layers", 28, 0);
  config.sliding = read_layer_types(json, config.n_blocks, [&](std::int64_t block) { return block >= first; });
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
