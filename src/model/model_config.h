// What Roundtable needs to know of a Hugging Face config.json.
#pragma once

#include <cstdint>
#include <string>

namespace roundtable {

// How positions turn into angles. Names and formulas as in transformers 5.23, modeling_rope_utils.py.
struct RopeConfig {
  std::string type = "default";  // default | linear | llama3
  double theta = 10000;
  double factor = 1;
  // llama3 only
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  std::int64_t original_max_position_embeddings = 8192;
};

struct ModelConfig {
  std::string model_type;  // llama | mistral | qwen2
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t n_blocks = 0;       // num_hidden_layers
  std::int64_t n_heads = 0;        // num_attention_heads
  std::int64_t n_kv_heads = 0;     // num_key_value_heads
  std::int64_t head_dim = 0;
  std::int64_t vocab_size = 0;
  std::int64_t sliding_window = 0; // 0: none
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  bool attention_bias = false;     // q, k and v (Qwen2; Llama's attention_bias has o too)
  bool attention_out_bias = false;
  bool mlp_bias = false;
  bool tie_word_embeddings = false;
  RopeConfig rope;

  // "model.layers.7"
  std::string block_name(std::int64_t block) const;
};

// Reads DIRECTORY/config.json. Throws Error (kBadInput) with file and key for a missing or senseless value, an
// architecture that is not supported (naming those that are), an activation or RoPE type that is not.
ModelConfig load_model_config(const std::string& directory);

}  // namespace roundtable
