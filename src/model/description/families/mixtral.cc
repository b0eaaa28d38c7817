// Mixtral: Mistral with a mixture of experts; a token's expert weights are made to sum to 1.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_mixtral(const JsonObject& json, ModelConfig& config) {
  read_like_llama(json, config, {.positions = 131072, .kv_heads = 8, .norm_eps = 1e-5, .theta = 1000000});
  config.sliding_window = read_window(json, 0);
  config.n_experts = json.get_int("num_local_experts", 1, 1 << 16);
  config.experts_per_token = json.get_int("num_experts_per_tok", 1, 1 << 16);
  config.block_names.router = "block_sparse_moe.gate";
  config.block_names.experts = "block_sparse_moe.experts";
  config.block_names.gate = "w1";
  config.block_names.up = "w3";
  config.block_names.down = "w2";
}

}  // namespace roundtable
