// GPT-2: Conv1D layers with a fused c_attn, LayerNorm, learned positions, a plain MLP, biases everywhere.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_gpt2(const JsonObject& json, ModelConfig& config) {
  const SizeKeys keys{"n_embd", "n_layer", "n_head", "n_positions"};
  read_sizes(json, config, 1024, keys);
  read_plain_heads(json, config, keys);
  config.intermediate_size = json.get_int_or("n_inner", 4 * config.hidden_size, 1, kMaxDimension);
  config.conv1d = true;
  config.norm = NormKind::kLayer;
  config.norm_eps = json.get_double_or("layer_norm_epsilon", 1e-5, 0.0, 1.0);
  config.activation = read_activation(json, "activation_function", "gelu_new");
  config.tie_word_embeddings = json.get_bool_or("tie_word_embeddings", true);
  config.attention_bias = config.attention_out_bias = config.mlp_bias = true;
  if (!json.get_bool_or("scale_attn_weights", true)) config.attention_scale = 1;
  config.scale_by_inverse_block = json.get_bool_or("scale_attn_by_inverse_layer_idx", false);
  config.rope.type = "";
  refuse_true(json, "add_cross_attention", "attention to an encoder");

  BlockNames& block = config.block_names;
  block.qkv = "attn.c_attn";
  block.o = "attn.c_proj";
  block.gate = "";
  block.up = "mlp.c_fc";
  block.down = "mlp.c_proj";
  block.attention_norm = "ln_1";
  block.mlp_norm = "ln_2";

  ModelNames& names = config.names;
  names.blocks = "transformer.h";
  names.embedding = "transformer.wte";
  names.positions = "transformer.wpe";
  names.final_norm = "transformer.ln_f";
}

}  // namespace roundtable
