// The table, and taking layers apart by it.
//
// Who reads the single names:
//   - vLLM: fused_moe/layer.py, make_expert_params_mapping: "experts.N.gate_proj.", "up_proj", "down_proj"; llama4.py
//     (0121c95e), qwen3_5.py (00def4f8) and qwen3_vl_moe.py (055e47c2, by Qwen3MoeModel) ask it for these. granitemoe.py
//     asks for w1, w3 and w2, and its load_weights takes block_sparse_moe.input_linear apart itself, as floats only.
//   - SGLang: moe/fused_moe_triton/layer.py, make_expert_params_mapping: the same.
//   - auto-round 0.16.1: modeling/fused_moe (llama4.py, gpt_oss.py, qwen3_5_moe.py, moe_experts_interface.py,
//     KNOWN_PROJECTION_PATTERNS) makes linear layers of these names of every stack when it loads a checkpoint.
//   - transformers 5.23: conversion_mapping.py, for the models whose entries are made of "qwen2_moe"'s.
//
// gpt_oss has gate and up by turns, and biases (modeling_gpt_oss.py, GptOssExperts). Only auto-round reads it in single
// layers: vLLM's gpt_oss.py (a6b6cfaa), load_weights, takes stacks and MXFP4's blocks, and passes by names that it does
// not know; SGLang's gpt_oss.py (009c6808) asks make_expert_params_mapping_fused. With transformers 5 auto-round cuts
// gate_up_proj in two halves whatever their rows mean (moe_experts_interface.py, _unfuse_experts_weights_inplace), puts
// the outputs of both together again and gives them to the model's _apply_gate (grouped_experts.py): so "gate_proj" is
// the first half. (With transformers 4 it took every second row: fused_moe/gpt_oss.py.)
#include "export/expert_layers.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace roundtable {
namespace {

struct StackNames {
  std::string_view stack;    // what its name ends with, after a dot or as a whole
  std::string_view experts;  // what stands there in the names of single experts
  std::vector<std::string_view> parts;
};

const std::vector<StackNames>& stack_names() {
  static const std::vector<StackNames> names = {
      {"experts.gate_up_proj", "experts", {"gate_proj", "up_proj"}},
      {"experts.down_proj", "experts", {"down_proj"}},
      {"block_sparse_moe.input_linear.weight", "block_sparse_moe.experts", {"w1", "w3"}},
      {"block_sparse_moe.output_linear.weight", "block_sparse_moe.experts", {"w2"}},
  };
  return names;
}

// The entry of a stack, and what stands before it in its name. Null for one that is not in the table.
std::pair<const StackNames*, std::string> entry_of(const std::string& stack) {
  for (const StackNames& entry : stack_names()) {
    if (!stack.ends_with(entry.stack)) continue;
    const std::string before = stack.substr(0, stack.size() - entry.stack.size());
    if (before.empty() || before.ends_with('.')) return {&entry, before};
  }
  return {nullptr, ""};
}

torch::Tensor put_together(const std::vector<QuantizedWeight>& weights, torch::Tensor QuantizedWeight::*member) {
  std::vector<torch::Tensor> rows;
  for (const QuantizedWeight& weight : weights) rows.push_back(weight.*member);
  return torch::cat(rows);
}

}  // namespace

std::vector<LayerPart> parts_of(const LinearSpec& layer) {
  if (!layer.stack) return {{layer}};
  LinearSpec plain = layer;
  plain.stack.reset();
  plain.transposed = false;
  const auto [entry, before] = entry_of(layer.stack->name);
  if (entry == nullptr || layer.out % std::ssize(entry->parts) != 0) return {{plain}};
  const std::int64_t count = std::ssize(entry->parts);
  std::vector<LayerPart> parts;
  for (std::int64_t i = 0; i < count; ++i) {
    LayerPart part{plain};
    part.linear.name = fmt::format("{}{}.{}.{}", before, entry->experts, layer.stack->index,
                                   entry->parts[static_cast<std::size_t>(i)]);
    part.linear.out = layer.out / count;
    part.first = i * part.linear.out;
    parts.push_back(std::move(part));
  }
  return parts;
}

bool has_known_parts(const LinearSpec& layer) {
  return !layer.stack || entry_of(layer.stack->name).first != nullptr;
}

torch::Tensor rows_of(const torch::Tensor& whole, const LayerPart& part) {
  return whole.narrow(0, part.first, part.linear.out).contiguous();
}

std::vector<BiasPart> parts_of_biases(const ParameterSpec& biases) {
  constexpr std::string_view kBias = "_bias";
  if (!biases.name.ends_with(kBias) || biases.shape.size() != 2) return {};
  const std::string stack = biases.name.substr(0, biases.name.size() - kBias.size());
  if (entry_of(stack).first == nullptr) return {};
  std::vector<BiasPart> parts;
  for (std::int64_t expert = 0; expert < biases.shape[0]; ++expert) {
    LinearSpec layer{"", biases.shape[1], 1};
    layer.stack = StackPlace{stack, expert, biases.shape[0]};
    for (const LayerPart& part : parts_of(layer)) {
      parts.push_back({part.linear.name + ".bias", part.linear.name, expert, part});
    }
  }
  return parts;
}

std::vector<TensorSpec> layout_of(const SafetensorsFormat& format, const LinearSpec& layer, const QuantScheme& scheme,
                                  torch::ScalarType float_type) {
  std::vector<TensorSpec> specs;
  for (const LayerPart& part : parts_of(layer)) {
    for (TensorSpec& spec : format.layout(part.linear, scheme, float_type)) specs.push_back(std::move(spec));
  }
  return specs;
}

std::vector<NamedTensor> pack_parts(const SafetensorsFormat& format, const LinearSpec& layer,
                                    const QuantizedWeight& weight, torch::ScalarType float_type) {
  const std::vector<LayerPart> parts = parts_of(layer);
  if (parts.size() == 1) return format.pack(parts.front().linear, weight, float_type);
  std::vector<NamedTensor> tensors;
  for (const LayerPart& part : parts) {
    const QuantizedWeight own{weight.scheme, rows_of(weight.q, part), rows_of(weight.scale, part),
                              rows_of(weight.zero_point, part)};
    for (NamedTensor& tensor : format.pack(part.linear, own, float_type)) tensors.push_back(std::move(tensor));
  }
  return tensors;
}

QuantizedWeight unpack_parts(const PackedFormat& format, const TensorReader& reader, const LinearSpec& layer,
                             const QuantScheme& scheme) {
  const std::vector<LayerPart> parts = parts_of(layer);
  std::vector<QuantizedWeight> weights;
  for (const LayerPart& part : parts) weights.push_back(format.unpack(reader, part.linear, scheme));
  if (weights.size() == 1) return weights.front();
  for (const QuantizedWeight& weight : weights) {
    if (weight.scheme.global_scale == weights.front().scheme.global_scale) continue;
    throw bad_input(fmt::format("{}: layer '{}'", reader.place, parts.front().linear.name),
                    "has another global scale than the layer that the model fuses it with");
  }
  return {weights.front().scheme, put_together(weights, &QuantizedWeight::q),
          put_together(weights, &QuantizedWeight::scale),
          put_together(weights, &QuantizedWeight::zero_point)};
}

bool holds_parts(const SafetensorsFormat& format, const TensorReader& reader, const LinearSpec& layer,
                 const QuantizedWeight& weight, torch::ScalarType float_type) {
  const std::vector<LayerPart> parts = parts_of(layer);
  return std::all_of(parts.begin(), parts.end(), [&](const LayerPart& part) {
    if (parts.size() == 1) return format.holds(reader, part.linear, weight, float_type);
    const QuantizedWeight own{weight.scheme, rows_of(weight.q, part), rows_of(weight.scale, part),
                              rows_of(weight.zero_point, part)};
    return format.holds(reader, part.linear, own, float_type);
  });
}

std::optional<std::string> obstacle_of_parts(const CheckpointFormat& format, const LinearSpec& layer,
                                             const QuantScheme& scheme) {
  for (const LayerPart& part : parts_of(layer)) {
    if (auto reason = format.layer_obstacle(part.linear, scheme)) return reason;
  }
  return std::nullopt;
}

std::vector<LayerScheme> written_layers(const CheckpointScheme& checkpoint) {
  std::vector<LayerScheme> layers;
  for (const LayerScheme& layer : checkpoint.layers) {
    for (const LayerPart& part : parts_of(layer.linear)) {
      layers.push_back(layer);
      layers.back().linear = part.linear;
    }
  }
  return layers;
}

bool takes_stacks_apart(const CheckpointScheme& checkpoint) {
  return std::any_of(checkpoint.layers.begin(), checkpoint.layers.end(),
                     [](const LayerScheme& layer) { return layer.scheme && layer.linear.stack; });
}

}  // namespace roundtable
