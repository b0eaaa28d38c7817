// Llama 2 and 3, SmolLM2, and all else of model_type llama: the description's defaults.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_llama(const JsonObject& json, ModelConfig& config) {
  read_sizes(json, config, 2048);
  config.intermediate_size = json.get_int("intermediate_size", 1, kMaxDimension);
  config.norm_eps = json.get_double_or("rms_norm_eps", 1e-6, 0.0, 1.0);
  config.activation = read_activation(json, "hidden_act", "silu");
  config.tie_word_embeddings = json.get_bool_or("tie_word_embeddings", false);
  config.attention_bias = json.get_bool_or("attention_bias", false);
  config.attention_out_bias = config.attention_bias;
  config.mlp_bias = json.get_bool_or("mlp_bias", false);
  config.rope = read_rope(json, config);
}

}  // namespace roundtable
