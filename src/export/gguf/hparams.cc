// Keys and their defaults.
#include "export/gguf/hparams.h"

#include "io/json_file.h"

namespace roundtable {
namespace {

constexpr std::int64_t kMaxDimension = std::int64_t{1} << 24;

// What the class of a family has for a missing key.
struct Defaults {
  std::int64_t positions;
  std::int64_t kv_heads;  // 0: as many as heads
  std::int64_t head_dim;  // 0: hidden_size / heads
};

Defaults defaults_of(const std::string& type) {
  if (type == "mistral") return {131072, 8, 0};
  if (type == "qwen2") return {32768, 32, 0};
  if (type == "qwen3") return {32768, 32, 128};
  return {2048, 0, 0};
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

GgufRope read_rope(const JsonObject& json, std::int64_t positions) {
  const JsonObject scaling = rope_object(json);
  GgufRope rope;
  rope.theta = scaling.get_double_or("rope_theta", json.get_double_or("rope_theta", rope.theta, 1.0), 1.0);
  rope.type = scaling.get_string_or("rope_type", scaling.get_string_or("type", rope.type));
  if (rope.type == "linear" || rope.type == "llama3") rope.factor = scaling.get_double("factor", 1e-3);
  if (rope.type != "llama3") return rope;
  const char* original = "original_max_position_embeddings";
  rope.original_positions = json.has(original) ? json.get_int(original, 1) : scaling.get_int_or(original, positions, 1);
  rope.low_freq_factor = scaling.get_double("low_freq_factor", 1e-3);
  rope.high_freq_factor = scaling.get_double("high_freq_factor", 1e-3);
  return rope;
}

// Qwen states a window and may not use it.
std::int64_t read_window(const JsonObject& json, const std::string& type) {
  if (type == "llama") return 0;
  if (type != "mistral" && !json.get_bool_or("use_sliding_window", false)) return 0;
  if (!json.json().contains("sliding_window")) return 4096;
  return json.has("sliding_window") ? json.get_int("sliding_window", 1) : 0;
}

}  // namespace

GgufHparams gguf_hparams(const CheckpointModel& model) {
  const JsonObject json(model.config, "config.json");
  const Defaults defaults = defaults_of(model.type);
  GgufHparams hparams;
  hparams.hidden_size = json.get_int("hidden_size", 1, kMaxDimension);
  hparams.intermediate_size = json.get_int("intermediate_size", 1, kMaxDimension);
  hparams.n_heads = json.get_int("num_attention_heads", 1, kMaxDimension);
  hparams.n_kv_heads = hparams.n_heads;
  if (defaults.kv_heads > 0 && !json.json().contains("num_key_value_heads")) hparams.n_kv_heads = defaults.kv_heads;
  hparams.n_kv_heads = json.get_int_or("num_key_value_heads", hparams.n_kv_heads, 1, kMaxDimension);
  const std::int64_t plain = defaults.head_dim > 0 ? defaults.head_dim : hparams.hidden_size / hparams.n_heads;
  hparams.head_dim = json.get_int_or("head_dim", plain, 1, kMaxDimension);
  hparams.positions = json.get_int_or("max_position_embeddings", defaults.positions, 1);
  hparams.window = read_window(json, model.type);
  hparams.norm_eps = json.get_double_or("rms_norm_eps", hparams.norm_eps, 0.0, 1.0);
  hparams.rope = read_rope(json, hparams.positions);
  return hparams;
}

}  // namespace roundtable
