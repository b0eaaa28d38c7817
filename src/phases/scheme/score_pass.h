// The scores of one option of auto_scheme: how much the loss changes, to first order, with what rounding takes from each
// layer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/token_set.h"
#include "graph/model.h"
#include "model/load/tensor_source.h"
#include "run/run_context.h"
#include "tune/block_tuner.h"

namespace roundtable {

struct ScoreSettings {
  std::vector<BlockSchemes> schemes;  // [block], by linear layer: the whole model as it is rounded for this option
  std::int64_t samples = 0;           // the first of the token set
  std::int64_t batch_size = 1;
  bool low_gpu_mem_usage = false;     // the samples' hidden states and gradients are in host memory
  std::string folder;                 // for the hidden states that enter each block, in a file without a name
  std::function<void()> on_block;     // called after each block of the forward and of the backward pass
};

struct LayerScores {
  std::vector<std::vector<double>> of_block;  // [block][layer]; 0 for a layer that stays in 16 bits
  double loss = 0;                            // of the rounded model, the mean over the batches
  std::int64_t batches = 0;
};

// Rounds the weights W of every layer to nearest, Wq, runs the next-token loss L of each batch forward and backward
// through this model, and adds up |dL/dWq * (W - Wq)| over the weights of a layer and over all batches. L is the mean
// over the tokens of a batch that are predicted.
//
// Source: auto-round 0.16.1, auto_scheme/delta_loss.py, AutoSchemeWrapperLinear and _ScoreLinear (weight_score), with
// model_forward_low_gpu(), which goes through the blocks in the same way.
//
// Each rank works on batches of its own, and holds one block with all of its experts, its samples' hidden states and
// their gradients; sums are added up batch by batch, so that the number of ranks does not matter. Collective over the
// world. Throws AgreedError: kNumeric where a score is not finite, kStartAgain when a rank is asked to leave.
LayerScores score_layers(const RankContext& ranks, const Model& model, const TensorSource& source,
                         const TokenRows& tokens, const ScoreSettings& settings);

}  // namespace roundtable
