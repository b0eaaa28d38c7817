// GPT-NeoX and Pythia: q, k and v fused head by head, a part of each head rotated, attention and MLP side by side,
// LayerNorm, biases.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {
namespace {

// The base and the rotated part have names of their own beside rope_scaling; transformers 5 writes rope_parameters.
RopeConfig read_neox_rope(const JsonObject& json, const ModelConfig& config) {
  const JsonObject object = rope_object(json);
  RopeConfig rope = read_rope_object(object, json, config, json.get_double_or("rotary_emb_base", 10000, 1.0));
  rope.partial_rotary_factor =
      object.get_double_or("partial_rotary_factor", json.get_double_or("rotary_pct", 0.25, 0.0, 1.0), 0.0, 1.0);
  return rope;
}

}  // namespace

void read_gpt_neox(const JsonObject& json, ModelConfig& config) {
  read_sizes(json, config, 2048);
  read_plain_heads(json, config);
  if (json.get_int_or("head_dim", config.head_dim) != config.head_dim) {  // transformers: for the angles alone
    json.fail("head_dim", "is not hidden_size / num_attention_heads, which this family's heads have");
  }
  config.intermediate_size = json.get_int("intermediate_size", 1, kMaxDimension);
  config.norm = NormKind::kLayer;
  config.norm_eps = json.get_double_or("layer_norm_eps", 1e-5, 0.0, 1.0);
  config.activation = read_activation(json, "hidden_act", "gelu");
  config.tie_word_embeddings = json.get_bool_or("tie_word_embeddings", false);
  config.attention_bias = config.attention_out_bias = json.get_bool_or("attention_bias", true);
  config.mlp_bias = true;
  config.residual = json.get_bool_or("use_parallel_residual", true) ? Residual::kParallel : Residual::kBefore;
  config.fused_qkv = FusedQkv::kByHead;
  config.rope = read_neox_rope(json, config);

  BlockNames& block = config.block_names;
  block.qkv = "attention.query_key_value";
  block.o = "attention.dense";
  block.gate = "";
  block.up = "mlp.dense_h_to_4h";
  block.down = "mlp.dense_4h_to_h";

  ModelNames& names = config.names;
  names.blocks = "gpt_neox.layers";
  names.embedding = "gpt_neox.embed_in";
  names.final_norm = "gpt_neox.final_layer_norm";
  names.head = "embed_out";
}

}  // namespace roundtable
