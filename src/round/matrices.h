// The matrices in a checkpoint, by the names, shapes and types of its tensors.
#pragma once

#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "model/load/parameter.h"

namespace roundtable {

struct StoredMatrix {
  LinearSpec linear;       // its name is the full one; [out, in] unless Conv1D
  bool published = false;  // its publisher has quantized it: model/load/published reads it
};

// Every tensor NAME.weight of two dimensions, every matrix that is stored in a way of model/load/published, and every
// expert of the stacks whose parts have known names (export/expert_layers.h), in the order of the tensors' names.
// Whether a stack is [experts, out, in] or [experts, in, out] follows from the shapes of gate and up and of down
// together; a stack for which it does not is left out. `model_type` is config.json's.
std::vector<StoredMatrix> find_matrices(const Checkpoint& checkpoint, const std::string& model_type);

}  // namespace roundtable
