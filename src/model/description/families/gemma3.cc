// Gemma 3, the text model: Gemma 2 without the cap on scores, with norms over each head of q and k, five sliding blocks
// to one full one, and a RoPE of their own for the sliding ones.
#include "model/description/families/common.h"
#include "model/description/families/family.h"

namespace roundtable {
namespace {

// transformers 5 nests a RoPE for each kind of block. Before it, rope_theta and rope_scaling were the full blocks' and
// rope_local_base_freq the sliding ones', which are never scaled. If both forms are there, the keys of rope_scaling
// replace those of the full blocks (configuration_gemma3.py, convert_rope_params_to_dict).
void read_ropes(const JsonObject& json, ModelConfig& config) {
  constexpr double kFullTheta = 1000000;
  constexpr double kSlidingTheta = 10000;
  const JsonObject none(nlohmann::json::object(), json.place());
  const JsonObject nested = json.has("rope_parameters") ? json.get_object("rope_parameters") : none;
  const auto of = [&](const char* kind) { return nested.has(kind) ? nested.get_object(kind) : none; };
  JsonObject full = of("full_attention");
  if (json.has("rope_scaling")) {
    nlohmann::json merged = full.json();
    merged.update(json.get_object("rope_scaling").json());
    full = JsonObject(merged, json.place() + ": rope_scaling");
  }
  // Keys beside nested ones do not reach them.
  config.rope = read_rope_object(full, none, config, json.get_double_or("rope_theta", kFullTheta, 1.0));
  config.sliding_rope = read_rope_object(of("sliding_attention"), none, config,
                                         json.get_double_or("rope_local_base_freq", kSlidingTheta, 1.0));
  // modeling_rope_utils.py, _compute_yarn_parameters() looks for this key outside of the nested ones.
  config.rope.truncate = config.sliding_rope.truncate = true;
  config.has_sliding_rope = true;
}

}  // namespace

void read_gemma3(const JsonObject& json, ModelConfig& config) {
  read_like_gemma2(json, config);
  config.max_position_embeddings = json.get_int_or("max_position_embeddings", 131072, 1);
  config.attention_soft_cap = 0;  // modeling_gemma3.py hands none to its attention, whatever config.json says
  config.final_soft_cap = json.get_double_or("final_logit_softcapping", 0, 0.0);
  const std::int64_t pattern = json.get_int_or("sliding_window_pattern", 6, 1);
  config.sliding =
      read_layer_types(json, config.n_blocks, [&](std::int64_t block) { return (block + 1) % pattern != 0; });
  config.block_names.q_norm = "self_attn.q_norm";
  config.block_names.k_norm = "self_attn.k_norm";
  read_ropes(json, config);
}

}  // namespace roundtable
