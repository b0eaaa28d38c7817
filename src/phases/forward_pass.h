// The forward pass: token rows run through a model block by block, all ranks together, each on its own rows. A block's
// weights are read from the file system once for the whole job, and no rank holds more than one block, or its part of
// the experts of one.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>

#include "base/sample_range.h"
#include "data/token_set.h"
#include "graph/model.h"
#include "graph/states.h"
#include "model/load/tensor_source.h"
#include "run/run_context.h"

namespace roundtable {

class ForwardPass {
 public:
  // `width`: samples that pass through a block at once; 0 leaves it to run_block(). All arguments outlive this.
  ForwardPass(const RankContext& ranks, const Model& model, std::int64_t width)
      : ranks_(ranks), model_(model), width_(width) {}

  // The rows [range) of a token set, embedded, on the ranks' device. Collective over the world.
  States embed_rows(const TensorSource& source, const TokenRows& tokens, const SampleRange& range) const;

  // Runs `states` through blocks [0, last); `before_block(block, states)` sees what enters each block, and what leaves
  // the last one as (last, states). Collective over the world. Returns the last states. Throws AgreedError
  // (kStartAgain) between blocks when a rank is asked to leave.
  States run_blocks(const TensorSource& source, States states, std::int64_t last,
                    const std::function<void(std::int64_t block, const States& states)>& before_block) const;

 private:
  const RankContext& ranks_;
  const Model& model_;
  std::int64_t width_;
};

}  // namespace roundtable
