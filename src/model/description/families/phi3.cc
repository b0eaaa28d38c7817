// Phi-3 and Phi-4: Llama with fused projections, which stay fused: a row of a weight is quantized on its own, so that
// nothing is gained by cutting them.
#include "base/text.h"
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_phi3(const JsonObject& json, ModelConfig& config) {
  read_like_llama(json, config, {.positions = 4096, .norm_eps = 1e-5});
  config.sliding_window = read_window(json, 0);
  config.rope.partial_rotary_factor = rope_object(json).get_double_or(
      "partial_rotary_factor", json.get_double_or("partial_rotary_factor", 1.0, 0.0, 1.0), 0.0, 1.0);
  config.block_names.qkv = "self_attn.qkv_proj";
  config.block_names.gate_up = "mlp.gate_up_proj";
  // configuration_phi3.py takes no other: its "su" and "yarn" mean LongRoPE.
  if (config.rope.type != "default") {
    json.fail("rope_scaling", "type '" + printable(config.rope.type) + "' is not supported for phi3",
              "supported is default");
  }
}

}  // namespace roundtable
