// Llama 2 and 3, SmolLM2, and all else of model_type llama: the description's defaults.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_llama(const JsonObject& json, ModelConfig& config) {
  read_like_llama(json, config);
  config.attention_bias = config.attention_out_bias = json.get_bool_or("attention_bias", false);
  config.mlp_bias = json.get_bool_or("mlp_bias", false);
}

}  // namespace roundtable
