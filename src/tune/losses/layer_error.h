// The error that quantization leaves in each layer's output: a figure for reports, no part of the tuning.
#pragma once

#include <torch/types.h>

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "tune/tuning_unit.h"

namespace roundtable {

// Relative squared error of a layer's output, |x (Q - W)^T|^2 / |x W^T|^2, over the same inputs x for both: those that
// the layer sees in the quantized model.
struct LayerError {
  std::string name;    // within the block
  double nearest = 0;  // Q: W rounded to nearest, as before the first step
  double tuned = 0;    // Q: what the block holds
};

// Runs `block`, whose weights are the quantized ones, over `sample` and leaves its output there.
// `original` and `schemes` as in TuningUnit, on any device. Layers in 16 bits, and experts that no token reaches, have
// no entry. Of a layer that one rank alone holds, that rank sees all inputs, and all ranks return its errors.
//
// Collective over `group`: sums over the samples of all its ranks. Blocks; the sums travel in host memory.
std::vector<LayerError> layer_errors(Block& block, const std::vector<torch::Tensor>& original,
                                     const BlockSchemes& schemes, States& sample, HostCommunicator& group);

}  // namespace roundtable
