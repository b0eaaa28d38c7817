// Which parameters a model has, and in which order its linear layers stand: derived from the description alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/description/model_config.h"

namespace roundtable {

// Name and shape of a parameter as we compute with it; of a block's, below the block's prefix.
struct ParameterSpec {
  std::string name;                 // "self_attn.q_proj.weight"
  std::vector<std::int64_t> shape;
  bool transposed = false;          // the file holds it the other way round: transformers' Conv1D, [in, out]

  std::vector<std::int64_t> stored_shape() const;
};

// One linear layer of a block.
struct LinearSpec {
  std::string name;                 // "self_attn.q_proj"
  std::int64_t out = 0;
  std::int64_t in = 0;
  bool bias = false;
  bool transposed = false;          // as in ParameterSpec

  ParameterSpec weight() const { return {name + ".weight", {out, in}, transposed}; }
};

// The linear layers that are quantized, in the order in which data flows: attention, then the MLP or expert by expert
// gate, up, down.
std::vector<LinearSpec> block_linears(const ModelConfig& config);
// What else a block holds and keeps as it is: norms, and the router of a mixture of experts.
std::vector<ParameterSpec> block_norms(const ModelConfig& config);
// Both, in the order in which a block is loaded: weights, biases, norms.
std::vector<ParameterSpec> block_parameters(const ModelConfig& config);

// What lies outside the blocks, by full name. A tied head is not among them.
std::vector<ParameterSpec> outside_parameters(const ModelConfig& config);

// The expert that a linear layer belongs to; -1 for a layer that every token passes.
std::int64_t expert_of(const ModelConfig& config, const std::string& linear);

}  // namespace roundtable
