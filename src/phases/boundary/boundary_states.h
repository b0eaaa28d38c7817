// States of the chain as a boundary's file holds them: hidden states, and the carried tensors that are still needed.
// Tokens are not among them; they come from the token set.
#pragma once

#include <cstdint>
#include <vector>

#include "base/sample_range.h"
#include "cache/boundary_file.h"
#include "config/config.h"
#include "data/token_set.h"
#include "graph/model.h"
#include "graph/states.h"

namespace roundtable {

// What the boundary before block `block` holds of `n_samples` samples.
BoundaryShape boundary_shape(const Model& model, std::int64_t n_samples, std::int64_t block);

// Room for what enters `block`, of `samples` samples, on the host.
States empty_states(const Model& model, std::int64_t block, std::int64_t samples);

// The memory of the tensors of boundary_shape(), in their order. `states` is on the host and contiguous.
std::vector<void*> pointers_of(const Model& model, std::int64_t block, States& states);

std::vector<const void*> const_pointers(const std::vector<void*>& pointers);

// Adds the tokens of samples [range), which are on the host, where a block of the model takes tokens.
void add_tokens(const CalibrationSection& calibration, const Model& model, const SampleRange& range, States& states);

// The token ids of rows [range), int64 [range.size(), seqlen] on the host.
torch::Tensor token_rows(const TokenRows& tokens, const SampleRange& range);

// Leaves out what neither `block` nor a later one takes.
void drop_unneeded(const Model& model, std::int64_t block, States& states);

}  // namespace roundtable
