// A matrix of the model from whatever tensors a published checkpoint holds it in.
#pragma once

#include <torch/types.h>

#include <vector>

#include "model/load/parameter.h"
#include "model/load/published/experts.h"
#include "model/load/published/storage.h"

namespace roundtable {

// A slice of the matrix, how it is stored, and in which tensors.
struct FoundSlice {
  MatrixSlice slice;
  const Storage* storage = nullptr;
  std::vector<StoredTensor> tensors;
};

// All slices of it, one below the other; empty if the checkpoint holds it in no way that is known. Reads headers alone.
// Throws Error (kBadInput) for a missing scale, and for shapes and types that do not fit.
std::vector<FoundSlice> find_matrix(const Checkpoint& checkpoint, const ParameterSpec& spec, const BlockSize& block);

// The matrix in spec.shape: bf16, or fp32 if a slice is F32 or has scales or values of fp16.
torch::Tensor read_matrix(const StoredReader& reader, const std::vector<FoundSlice>& slices, const BlockSize& block);

}  // namespace roundtable
