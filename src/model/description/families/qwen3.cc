// Qwen3: Qwen2 with norms over each head of q and k, and biases only where config.json asks for them.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_qwen3(const JsonObject& json, ModelConfig& config) {
  read_qwen2(json, config);
  config.attention_bias = json.get_bool_or("attention_bias", false);
  config.attention_out_bias = config.attention_bias;
  config.head_dim = json.get_int_or("head_dim", 128, 1, kMaxDimension);
  config.block_names.q_norm = "self_attn.q_norm";
  config.block_names.k_norm = "self_attn.k_norm";
}

}  // namespace roundtable
