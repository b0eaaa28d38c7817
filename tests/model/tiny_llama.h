// The smallest Llama that the tests of several folders share.
#pragma once

#include "model/description/model_config.h"

namespace roundtable::testing {

inline ModelConfig tiny_llama(std::int64_t n_blocks) {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.n_blocks = n_blocks;
  config.n_heads = 4;
  config.n_kv_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 32;
  return config;
}

}  // namespace roundtable::testing
