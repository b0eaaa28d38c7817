// OPT: LayerNorm, learned positions, a plain MLP, biases everywhere. The 350m puts its norms behind the residual sums
// and has narrower embeddings.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_opt(const JsonObject& json, ModelConfig& config) {
  read_sizes(json, config, 2048);
  read_plain_heads(json, config);
  config.intermediate_size = json.get_int("ffn_dim", 1, kMaxDimension);
  config.norm = NormKind::kLayer;
  config.norm_eps = 1e-5;  // torch.nn.LayerNorm's default
  config.activation = read_activation(json, "activation_function", "relu");
  config.tie_word_embeddings = json.get_bool_or("tie_word_embeddings", true);
  config.attention_bias = config.attention_out_bias = config.mlp_bias = json.get_bool_or("enable_bias", true);
  const bool before = json.get_bool_or("do_layer_norm_before", true);
  config.residual = before ? Residual::kBefore : Residual::kAfter;
  config.rope.type = "";
  config.position_offset = 2;
  config.embedding_size = json.get_int_or("word_embed_proj_dim", config.hidden_size, 1, kMaxDimension);
  if (!json.get_bool_or("layer_norm_elementwise_affine", true)) {
    json.fail("layer_norm_elementwise_affine", "is false: norms without weights are not supported");
  }

  BlockNames& block = config.block_names;
  block.o = "self_attn.out_proj";
  block.gate = "";
  block.up = "fc1";
  block.down = "fc2";
  block.attention_norm = "self_attn_layer_norm";
  block.mlp_norm = "final_layer_norm";

  ModelNames& names = config.names;
  names.blocks = "model.decoder.layers";
  names.embedding = "model.decoder.embed_tokens";
  names.positions = "model.decoder.embed_positions";
  const bool final_norm = before && !json.get_bool_or("_remove_final_layer_norm", false);
  names.final_norm = final_norm ? "model.decoder.final_layer_norm" : "";
  if (config.embedding_size != config.hidden_size) {
    names.project_in = "model.decoder.project_in";
    names.project_out = "model.decoder.project_out";
  }
}

}  // namespace roundtable
