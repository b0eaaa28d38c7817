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

// Sizes, vocabulary and heads, all of them required but the key/value heads (default: n_heads) and head_dim
// (default: hidden_size / n_heads). `default_positions` stands for a missing max_position_embeddings.
void read_sizes(const JsonObject& json, ModelConfig& config, std::int64_t default_positions,
                const SizeKeys& keys = {});

// "silu", "gelu_pytorch_tanh", ... under `key`.
Activation read_activation(const JsonObject& json, const std::string& key, const std::string& fallback);

// rope_scaling or rope_parameters, and the keys beside them. `theta` stands for a missing rope_theta.
RopeConfig read_rope(const JsonObject& json, const ModelConfig& config, double theta = 10000);
// The key of the two that counts.
const char* rope_key(const JsonObject& json);
// The RoPE that one object describes; keys that it lacks come from config.json itself (`json`).
RopeConfig read_rope_object(const JsonObject& scaling, const JsonObject& json, const ModelConfig& config, double theta);

// sliding_window where it is there, else 0.
std::int64_t read_window(const JsonObject& json);

// The blocks with sliding attention, from layer_types; without that key by `rule`.
std::vector<bool> read_layer_types(const JsonObject& json, std::int64_t n_blocks,
                                   const std::function<bool(std::int64_t block)>& rule);

// Refuses a key that is true, with what it would mean.
void refuse_true(const JsonObject& json, const std::string& key, const std::string& meaning);

}  // namespace roundtable
