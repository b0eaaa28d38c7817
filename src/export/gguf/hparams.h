// What llama.cpp must be told of a model of the llama and qwen families, by its config.json. What a missing key means
// is what transformers 5.23 takes (models/NAME/configuration_NAME.py, modeling_rope_utils.py).
#pragma once

#include <cstdint>
#include <string>

#include "export/checkpoint_model.h"

namespace roundtable {

struct GgufRope {
  std::string type = "default";
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1;   // these three of llama3
  double high_freq_factor = 4;
  std::int64_t original_positions = 8192;
};

struct GgufHparams {
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t n_heads = 0;
  std::int64_t n_kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t positions = 0;
  std::int64_t window = 0;  // of sliding attention in some block; 0: none
  double norm_eps = 1e-6;
  GgufRope rope;
};

// Of a llama, mistral, qwen2 or qwen3. Throws Error (kBadInput) with the key for a missing or senseless value.
GgufHparams gguf_hparams(const CheckpointModel& model);

}  // namespace roundtable
