// Phi-3 and Phi-4: Llama with fused projections, which stay fused: a row of a weight is quantized on its own, so that
// nothing is gained by cutting them.
#include "base/text.h"
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {

void read_phi3(const JsonObject& json, ModelConfig& config) {
  read_llama(json, config);
  config.norm_eps = json.get_double_or("rms_norm_eps", 1e-5, 0.0, 1.0);
  config.attention_bias = config.attention_out_bias = config.mlp_bias = false;
  config.sliding_window = read_window(json);
  config.block_names.qkv = "self_attn.qkv_proj";
  config.block_names.gate_up = "mlp.gate_up_proj";
  // configuration_phi3.py takes no other: its "su" and "yarn" mean LongRoPE.
  if (config.rope.type != "default") {
    json.fail("rope_scaling", "type '" + printable(config.rope.type) + "' is not supported for phi3", "supported is default");
  }
}

}  // namespace roundtable
