// Qwen2 and Qwen2.5: Llama with biases on q, k and v, and windows from some block on.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_qwen2(const JsonObject& json, ModelConfig& config) {
  read_llama(json, config);
  config.attention_bias = true;
  config.attention_out_bias = config.mlp_bias = false;
  // A window is stated even where none is used.
  if (!json.get_bool_or("use_sliding_window", false)) return;
  config.sliding_window = read_window(json);
  const std::int64_t first = json.get_int_or("max_window_layers", 28, 0);
  config.sliding = read_layer_types(json, config.n_blocks, [&](std::int64_t block) { return block >= first; });
}

}  // namespace roundtable
