// What several families read alike.
#pragma once

#include <functional>
#include <string>

#include "io/json_file.h"
#include "model/description/model_config.h"

namespace roundtable {

inline constexpr std::int64_t kMaxDimension = std::int64_t{1} << 24;

// Names of the keys that OPT and GPT-2 spell in their own way.
struct SizeKeys {
  const char* hidden_size = "hidden_size";
  const char* n_blocks = "num_hidden_layers";
  const char* n_heads = "num_attention_heads";
  const char* max_position_embeddings = "max_position_embeddings";
};

// Hidden size, blocks, heads and vocabulary, all of them required, and the model's length. `default_positions` is what
// a missing max_position_embeddings means.
void read_sizes(const JsonObject& json, ModelConfig& config, std::int64_t default_positions,
                const SizeKeys& keys = {});

// Then the heads: hidden_size / n_heads wide, and as many for keys and values.
void read_plain_heads(const JsonObject& json, ModelConfig& config, const SizeKeys& keys = {});
// Or by num_key_value_heads and head_dim. The defaults are what a missing key means; 0, and a null, mean a plain head.
void read_heads(const JsonObject& json, ModelConfig& config, std::int64_t default_kv_heads,
                std::int64_t default_head_dim);

// What the class of a family's config.json in transformers has for a missing key, where that differs from Llama's.
struct LlamaDefaults {
  std::int64_t positions = 2048;
  std::int64_t kv_heads = 0;  // 0: num_attention_heads
  std::int64_t head_dim = 0;  // 0: hidden_size / num_attention_heads
  double norm_eps = 1e-6;
  double theta = 10000;
};

// The keys that Llama and its like share.
void read_like_llama(const JsonObject& json, ModelConfig& config, const LlamaDefaults& defaults = {});

// "silu", "gelu_pytorch_tanh", ... under `key`.
Activation read_activation(const JsonObject& json, const std::string& key, const std::string& fallback);

// The object of rope_scaling or rope_parameters, whichever counts. Empty if there is none.
JsonObject rope_object(const JsonObject& json);
// The RoPE that it describes, and the keys beside it, for a family that rotates whole heads: transformers ignores a
// partial_rotary_factor where nothing is scaled, and cannot run such a model else. `theta` is what a missing rope_theta
// means.
RopeConfig read_rope(const JsonObject& json, const ModelConfig& config, double theta = 10000);
// The RoPE that one object describes, on whole heads; keys that it lacks come from config.json itself (`json`).
RopeConfig read_rope_object(const JsonObject& scaling, const JsonObject& json, const ModelConfig& config, double theta);

// sliding_window; 0 for a null, which means none. `fallback` is what a missing key means.
std::int64_t read_window(const JsonObject& json, std::int64_t fallback);

// Qwen's: a window may be stated and not used, and is used from block max_window_layers on, or by layer_types.
void read_upper_windows(const JsonObject& json, ModelConfig& config);

// The blocks with sliding attention, from layer_types; without that key by `rule`.
std::vector<bool> read_layer_types(const JsonObject& json, std::int64_t n_blocks,
                                   const std::function<bool(std::int64_t block)>& rule);

// The keys that Gemma 2 and 3 share: all but the RoPE. In gemma2.cc.
void read_like_gemma2(const JsonObject& json, ModelConfig& config);

// Refuses a key that is true, with what it would mean.
void refuse_true(const JsonObject& json, const std::string& key, const std::string& meaning);

}  // namespace roundtable
