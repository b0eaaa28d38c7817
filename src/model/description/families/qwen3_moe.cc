// Qwen3 with a mixture of experts in every block.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_qwen3_moe(const JsonObject& json, ModelConfig& config) {
  read_like_llama(json, config, {.positions = 32768, .kv_heads = 4});
  config.attention_bias = config.attention_out_bias = json.get_bool_or("attention_bias", false);
  if (json.get_bool_or("use_sliding_window", false)) config.sliding_window = read_window(json, 4096);
  config.intermediate_size = json.get_int("moe_intermediate_size", 1, kMaxDimension);
  config.n_experts = json.get_int(json.has("num_local_experts") ? "num_local_experts" : "num_experts", 1, 1 << 16);
  config.experts_per_token = json.get_int("num_experts_per_tok", 1, 1 << 16);
  config.normalize_router = json.get_bool_or("norm_topk_prob", false);
  if (json.get_int_or("decoder_sparse_step", 1) != 1) {
    json.fail("decoder_sparse_step", "is not 1: models with dense blocks between are not supported");
  }
  if (json.has("mlp_only_layers") && !json.get_ints("mlp_only_layers").empty()) {
    json.fail("mlp_only_layers", "is not empty: models with dense blocks between are not supported");
  }
  config.block_names.q_norm = "self_attn.q_norm";
  config.block_names.k_norm = "self_attn.k_norm";
  config.block_names.router = "mlp.gate";
  config.block_names.experts = "mlp.experts";
  config.block_names.gate = "gate_proj";
  config.block_names.up = "up_proj";
  config.block_names.down = "down_proj";
}

}  // namespace roundtable
