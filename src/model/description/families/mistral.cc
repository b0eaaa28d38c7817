// Mistral: Llama with a sliding window in every block, and no biases.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_mistral(const JsonObject& json, ModelConfig& config) {
  read_llama(json, config);
  config.attention_bias = config.attention_out_bias = config.mlp_bias = false;
  config.sliding_window = read_window(json);
}

}  // namespace roundtable
