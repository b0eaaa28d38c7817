// Qwen3: Qwen2 with norms over each head of q and k, and biases only where config.json asks for them.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_qwen3(const JsonObject& json, ModelConfig& config) {
  read_like_llama(json, config, {.positions = 32768, .kv_heads = 32, .head_dim = 128});
  config.attention_bias = config.attention_out_bias = json.get_bool_or("attention_bias", false);
  read_upper_windows(json, config);
  config.block_names.q_norm = "self_attn.q_norm";
  config.block_names.k_norm = "self_attn.k_norm";
}

}  // namespace roundtable
