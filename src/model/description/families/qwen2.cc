// Qwen2 and Qwen2.5: Llama with biases on q, k and v, and windows from some block on.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_qwen2(const JsonObject& json, ModelConfig& config) {
  read_like_llama(json, config, {.positions = 32768, .kv_heads = 32});
  config.attention_bias = true;
  read_upper_windows(json, config);
}

}  // namespace roundtable
