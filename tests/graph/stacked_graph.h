// A block whose experts are one tensor on disk, as transformers 5.23 has it for Llama 4 and Qwen3-VL (all of gate, then
// all of up) and for gpt_oss (by turns, [in, out], with biases); and a text model inside of a larger one.
#pragma once

#include <limits>

#include "tests/graph/tiny_models.h"

namespace roundtable::testing {

struct TinyStacked {
  bool by_turns = false;
  std::string gate_up = "mlp.experts.gate_up_proj", down = "mlp.experts.down_proj";
  std::int64_t width = 64, inner = 32, experts = 4;
  int blocks = 2;
};

inline GraphFiles stacked_files(const TinyStacked& tiny) {
  const std::int64_t width = tiny.width, inner = tiny.inner, experts = tiny.experts;
  PartBuilder kind;
  const json hidden = kind.input("hidden");
  const json o = kind.parameter("self_attn.o_proj.weight", {width, width}, "linear");
  const json router = kind.parameter("mlp.router.weight", {experts, width}, "router");
  const bool turned = tiny.by_turns;
  const auto shape = [&](std::int64_t out, std::int64_t in) {
    return turned ? std::vector{experts, in, out} : std::vector{experts, out, in};
  };
  const json gate_up = kind.parameter(tiny.gate_up, shape(2 * inner, width), "linear", turned);
  const json down = kind.parameter(tiny.down, shape(width, inner), "linear", turned);
  json gate_up_bias = nullptr, down_bias = nullptr;
  if (turned) {
    gate_up_bias = kind.parameter(tiny.gate_up + "_bias", {experts, 2 * inner});
    down_bias = kind.parameter(tiny.down + "_bias", {experts, width});
  }
  const json x = kind.call("aten::reshape", {kind.call("aten::linear", {hidden, o}), json::array({-1, width})});
  const auto best = kind.call_all("aten::topk", {kind.call("aten::linear", {x, router}), 2}, 2);
  const auto rows = kind.call_all("rt::dispatch", {x, best[1], experts}, 3);
  const json y = kind.call("rt::expert_linear", {rows[0], gate_up, gate_up_bias, rows[1], turned});
  json gate, up;
  if (turned) {
    constexpr auto kEnd = std::numeric_limits<std::int64_t>::max();
    gate = kind.call("aten::slice.Tensor", {y, 1, 0, kEnd, 2});
    up = kind.call("aten::slice.Tensor", {y, 1, 1, kEnd, 2});
  } else {
    const auto halves = kind.call_all("aten::chunk", {y, 2, -1}, 2);
    gate = halves[0], up = halves[1];
  }
  const json gated = kind.call("aten::mul.Tensor", {kind.call("aten::silu", {gate}), up});
  const json z = kind.call("rt::expert_linear", {gated, down, down_bias, rows[1], turned});
  const json mixed = kind.call("aten::view_as", {kind.call("rt::combine", {z, best[0], rows[2]}), hidden});
  kind.output(kind.call("aten::add.Tensor", {hidden, mixed}));
  GraphFiles files = model_of(kind, {4, width}, tiny.blocks);
  if (turned) files.model["model_type"] = "gpt_oss";
  return files;
}

// The same model with its text part at `prefix` in the checkpoint: "language_model.model.".
inline GraphFiles inside_of_another(GraphFiles files, const std::string& prefix) {
  int block = 0;
  for (json& entry : files.model["blocks"]) entry["prefix"] = prefix + "layers." + std::to_string(block++) + ".";
  files.model["text_config"] = "text_config";
  return files;
}

}  // namespace roundtable::testing
