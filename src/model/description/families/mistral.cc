// Mistral: Llama with a sliding window in every block, and no biases.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_mistral(const JsonObject& json, ModelConfig& config) {
  read_like_llama(json, config, {.positions = 131072, .kv_heads = 8});
  config.sliding_window = read_window(json, 4096);
}

}  // namespace roundtable
