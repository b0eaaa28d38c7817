// The graph of a Mixtral block (transformers 5.23, modeling_mixtral.py): experts are tensors of their own on disk, and
// lie in two parameters.
#pragma once

#include "tests/graph/llama_graph.h"

namespace roundtable::testing {

struct TinyMixtral {
  TinyLlama llama;  // all but the MLP
  std::int64_t experts = 4;
  std::int64_t chosen = 2;  // of a token
};

inline GraphFiles mixtral_model(const TinyMixtral& mixtral, std::int64_t seqlen, torch::ScalarType dtype) {
  const std::int64_t width = mixtral.llama.hidden, inner = mixtral.llama.intermediate, experts = mixtral.experts;
  PartBuilder kind(dtype);
  const json hidden = kind.input("hidden");
  const json middle = llama_attention_nodes(kind, mixtral.llama, seqlen, hidden);
  const json norm = kind.parameter("post_attention_layernorm.weight", {width});
  const std::string mlp = "block_sparse_moe.";
  const json router = kind.parameter(mlp + "gate.weight", {experts, width}, "router");
  const json gate_up = kind.bare_parameter("gate_up_proj", {experts, 2 * inner, width});
  const json down = kind.bare_parameter("down_proj", {experts, width, inner});
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::string expert = mlp + "experts." + std::to_string(e);
    kind.tensor(expert + ".w1.weight", "gate_up_proj", 2 * e * inner * width, {inner, width}, {width, 1});
    kind.tensor(expert + ".w3.weight", "gate_up_proj", (2 * e + 1) * inner * width, {inner, width}, {width, 1});
    kind.tensor(expert + ".w2.weight", "down_proj", e * inner * width, {width, inner}, {inner, 1});
  }
  const json y = rms_norm_nodes(kind, middle, norm, mixtral.llama.norm_eps);
  const json x = kind.call("aten::reshape", {y, json::array({-1, width})});
  const json shares = kind.call("aten::softmax.int", {kind.call("aten::linear", {x, router}), -1});
  const auto best = kind.call_all("aten::topk", {shares, mixtral.chosen}, 2);
  const json sum = kind.call("aten::sum.dim_IntList", {best[0], json::array({-1}), true});
  const json weights = kind.call("aten::div.Tensor", {best[0], sum});
  const auto rows = kind.call_all("rt::dispatch", {x, best[1], experts}, 3);
  const auto halves = kind.call_all(
      "aten::chunk", {kind.call("rt::expert_linear", {rows[0], gate_up, nullptr, rows[1], false}), 2, -1}, 2);
  const json gated = kind.call("aten::mul.Tensor", {kind.call("aten::silu", {halves[0]}), halves[1]});
  const json z = kind.call("rt::expert_linear", {gated, down, nullptr, rows[1], false});
  const json mixed = kind.call("aten::view_as", {kind.call("rt::combine", {z, weights, rows[2]}), middle});
  kind.output(kind.call("aten::add.Tensor", {middle, mixed}));
  GraphFiles files = llama_files(kind, mixtral.llama, seqlen);
  files.model["model_type"] = "mixtral";
  files.model["architecture"] = "MixtralForCausalLM";
  return files;
}

}  // namespace roundtable::testing
