// Experts in the other form: a model's table names one tensor of all experts and the checkpoint holds them one by one,
// as the FP8 versions of models with fused experts do, or the other way round.
#pragma once

#include <vector>

#include "model/load/parameter.h"
#include "model/load/published/storage.h"

namespace roundtable {

// Rows of a stored matrix that are rows of the wanted one.
struct MatrixSlice {
  PublishedMatrix place;
  std::int64_t first = 0;
  std::int64_t rows = 0;
};

// All other forms of a matrix that there are: each a list of slices, one below the other. Reads headers alone.
//
// Source: transformers 5.23, conversion_mapping.py: gate_up_proj is [gate_proj; up_proj] or [w1; w3] of each expert
// (MergeModulelist(dim=0), Concatenate(dim=1)), down_proj is down_proj or w2.
std::vector<std::vector<MatrixSlice>> other_forms(const Checkpoint& checkpoint, const ParameterSpec& spec);

}  // namespace roundtable
