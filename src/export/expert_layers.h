// Experts that a model holds as one tensor. Once any of them is quantized they are written one by one, gate and up
// apart, under the names that engines read. The one table of these names is in expert_layers.cc, with its sources.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "export/format.h"
#include "model/load/parameter.h"

namespace roundtable {

// A layer as it is written, and the first of the rows that it has of the model's layer.
struct LayerPart {
  LinearSpec linear;
  std::int64_t first = 0;
};

// "mlp.experts.3.gate_proj" and "mlp.experts.3.up_proj" of the fourth expert of "mlp.experts.gate_up_proj"; of any
// other layer itself alone.
std::vector<LayerPart> parts_of(const LinearSpec& layer);

// Whether the table says how engines name the experts of a layer's stack. True of every other layer.
bool has_known_parts(const LinearSpec& layer);

// Of a matrix or a vector of the layer's rows: those of the part. All parts one below the other are the layer.
torch::Tensor rows_of(const torch::Tensor& whole, const LayerPart& part);

// The biases of all experts of a stack: one tensor [experts, out] in the model, one vector for each part as written.
struct BiasPart {
  std::string name;     // "mlp.experts.3.gate_proj.bias"
  std::string layer;    // "mlp.experts.3.gate_proj"
  std::int64_t expert;  // row of the model's tensor
  LayerPart part;
};
// Empty for a tensor that is no such bias.
std::vector<BiasPart> parts_of_biases(const ParameterSpec& biases);

// SafetensorsFormat's and PackedFormat's functions of these names, for a layer in as many parts as it is written in.
std::vector<TensorSpec> layout_of(const SafetensorsFormat& format, const LinearSpec& layer, const QuantScheme& scheme,
                                  torch::ScalarType float_type);
std::vector<NamedTensor> pack_parts(const SafetensorsFormat& format, const LinearSpec& layer,
                                    const QuantizedWeight& weight, torch::ScalarType float_type);
QuantizedWeight unpack_parts(const PackedFormat& format, const TensorReader& reader, const LinearSpec& layer,
                             const QuantScheme& scheme);
bool holds_parts(const SafetensorsFormat& format, const TensorReader& reader, const LinearSpec& layer,
                 const QuantizedWeight& weight, torch::ScalarType float_type);
std::optional<std::string> obstacle_of_parts(const CheckpointFormat& format, const LinearSpec& layer,
                                             const QuantScheme& scheme);

// The layers of a checkpoint as they are written.
std::vector<LayerScheme> written_layers(const CheckpointScheme& checkpoint);

// Whether the stacks of a checkpoint are taken apart: some expert of one of them is quantized. All of them are then,
// because vLLM (models/llama4.py and qwen3_5.py, load_weights) reads no stack and single expert in one model.
bool takes_stacks_apart(const CheckpointScheme& checkpoint);

}  // namespace roundtable
