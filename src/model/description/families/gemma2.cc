// Gemma 2: norms before and behind each part with weights of 1 + w, tanh GELU, soft caps on scores and logits, a window
// in every second block, embeddings scaled by sqrt(hidden_size).
#include <cmath>

#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_like_gemma2(const JsonObject& json, ModelConfig& config) {
  read_sizes(json, config, 8192);
  read_heads(json, config, 4, 256);
  config.intermediate_size = json.get_int("intermediate_size", 1, kMaxDimension);
  config.norm = NormKind::kRmsPlusOne;
  config.norm_eps = json.get_double_or("rms_norm_eps", 1e-6, 0.0, 1.0);
  config.activation = read_activation(json, "hidden_activation", "gelu_pytorch_tanh");
  config.tie_word_embeddings = json.get_bool_or("tie_word_embeddings", true);
  config.attention_bias = config.attention_out_bias = json.get_bool_or("attention_bias", false);
  config.attention_scale = 1.0 / std::sqrt(json.get_double_or("query_pre_attn_scalar", 256, 1e-3));
  // null switches a cap off; a missing key means its default.
  const auto cap = [&](const char* key, double fallback) {
    return json.json().contains(key) ? json.get_double_or(key, 0, 0.0) : fallback;
  };
  config.attention_soft_cap = cap("attn_logit_softcapping", 50);
  config.final_soft_cap = cap("final_logit_softcapping", 30);
  config.embedding_scale = std::sqrt(static_cast<double>(config.hidden_size));
  config.sliding_window = read_window(json, 4096);
  config.sliding = read_layer_types(json, config.n_blocks, [](std::int64_t block) { return block % 2 == 0; });
  config.block_names.attention_out_norm = "post_attention_layernorm";
  config.block_names.mlp_norm = "pre_feedforward_layernorm";
  config.block_names.mlp_out_norm = "post_feedforward_layernorm";
  refuse_true(json, "use_bidirectional_attention", "attention to later tokens");
}

void read_gemma2(const JsonObject& json, ModelConfig& config) {
  read_like_gemma2(json, config);
  config.rope = read_rope(json, config);
}

}  // namespace roundtable
