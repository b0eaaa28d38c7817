// A model as llama.cpp knows it: entries, tensors' names, and rows in its order.
//
// Source: llama.cpp's convert_hf_to_gguf.py, as auto-round 0.16.1 carries it (export/export_to_gguf/conversion/base.py,
// llama.py, qwen.py), and gguf 0.19.0, constants.py and tensor_mapping.py.
#pragma once

#include <torch/types.h>

#include <optional>
#include <string>

#include "export/format.h"
#include "export/gguf/container.h"

namespace roundtable {

std::optional<std::string> gguf_model_obstacle(const CheckpointModel& model);

// Adds all entries except for the tokenizer's. `type` is the type of most layers.
void add_gguf_model(GgufEntries& entries, const CheckpointModel& model, GgufType type);

// "blk.3.attn_q.weight" for "model.layers.3.self_attn.q_proj.weight"; empty for a tensor that has no place.
std::string gguf_name(const CheckpointModel& model, const std::string& name);

// The order in which llama.cpp wants the rows of a layer: its RoPE turns neighbouring pairs in the llama family, where
// transformers turns halves of a head. An undefined tensor: the order stays.
torch::Tensor gguf_row_order(const CheckpointModel& model, const std::string& layer);

// Factors of the RoPE frequencies of Llama 3, [rotated / 2] fp32; an undefined tensor for other models.
torch::Tensor gguf_rope_factors(const CheckpointModel& model);

}  // namespace roundtable
