// Small models of a few blocks, as the program has them once their graphs are read.
#pragma once

#include "graph/model.h"
#include "tests/graph/llama_graph.h"
#include "tests/graph/mixtral_graph.h"
#include "tests/graph/node_costs.h"

namespace roundtable::testing {

// Their config.json.
inline json llama_config(const TinyLlama& llama) {
  json config{{"architectures", json::array({"LlamaForCausalLM"})},
              {"model_type", "llama"},
              {"hidden_act", "silu"},
              {"hidden_size", llama.hidden},
              {"intermediate_size", llama.intermediate},
              {"num_hidden_layers", llama.blocks},
              {"num_attention_heads", llama.heads},
              {"num_key_value_heads", llama.kv_heads},
              {"head_dim", llama.head_dim},
              {"vocab_size", llama.vocab},
              {"rms_norm_eps", llama.norm_eps},
              {"rope_theta", llama.theta},
              {"tie_word_embeddings", llama.tied},
              {"torch_dtype", "bfloat16"}};
  if (llama.max_positions > 0) config["max_position_embeddings"] = llama.max_positions;
  return config;
}

inline json mixtral_config(const TinyMixtral& mixtral) {
  json config = llama_config(mixtral.llama);
  config["architectures"] = json::array({"MixtralForCausalLM"});
  config["model_type"] = "mixtral";
  config["num_local_experts"] = mixtral.experts;
  config["num_experts_per_tok"] = mixtral.chosen;
  return config;
}

// The model of such graphs.
inline Model model_from(GraphFiles files, const json& config = {{"model_type", "llama"}}) {
  measure_costs(files);
  return {manifest_of(files), files.constants, config};
}

inline Model tiny_llama_model(const TinyLlama& llama = {}, std::int64_t seqlen = 16,
                              torch::ScalarType dtype = torch::kFloat32) {
  return model_from(llama_model(llama, seqlen, dtype), llama_config(llama));
}

inline Model tiny_mixtral_model(const TinyMixtral& mixtral = {}, std::int64_t seqlen = 16,
                                torch::ScalarType dtype = torch::kFloat32) {
  return model_from(mixtral_model(mixtral, seqlen, dtype), mixtral_config(mixtral));
}

}  // namespace roundtable::testing
