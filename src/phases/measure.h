// What an evaluation measures: the perplexity of a model on a token set, and how far its distribution of the next token
// is from that of the float model which it was made from. All ranks together, each on its own samples.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "graph/model.h"
#include "model/load/tensor_source.h"
#include "run/run_context.h"
#include "rundir/run_summary.h"

namespace roundtable {

struct MeasuredModel {
  const Model& model;
  const TensorSource& source;
  std::string name;  // in errors
};

// Over rows * (seqlen - 1) tokens, each predicted from those before it in its row.
struct Measures {
  double perplexity = 0;  // exp of the mean cross entropy
  std::int64_t tokens = 0;
  std::optional<double> float_perplexity;  // with a float model
  std::optional<Divergence> divergence;    // the same
};

struct MeasureSettings {
  std::string tokens;         // path of the token set
  std::string logits;         // not empty (one rank only): the model's logits of all rows are written there as
                              // safetensors, `logits` [rows, seqlen, vocab]
  std::int64_t width = 0;     // samples that pass through a block at once; 0 leaves it to run_block()
  std::function<void()> on_block;  // called after each block of either model
};

// Streams through the float model, if there is one, and then through the model, and keeps what leaves their last blocks.
// Logits are made for a few positions of both at a time. So a rank holds one block at a time (or its part of the experts
// of one), the hidden states of its samples twice, and both heads. The 99th percentile is exact: 4 bytes per token go to
// rank 0. The same on every rank, and, but for the last digits, on any number of ranks.
//
// Both models have the same vocabulary. Collective over the world. Throws AgreedError: kNumeric where a measure is not
// finite, kStartAgain when a rank is asked to leave.
Measures measure(const RankContext& ranks, const MeasuredModel& model, const std::optional<MeasuredModel>& float_model,
                 const MeasureSettings& settings);

// Of how many positions logits are made at a time: fewer where the vocabulary is large.
std::int64_t positions_at_once(std::int64_t vocab);

// The value below which `fraction` of `values` lie, interpolated between two neighbours; `values` are not empty. Source:
// llama.cpp, tools/perplexity/perplexity.cpp, kl_divergence(), `percentile`.
double percentile(std::vector<float> values, double fraction);

}  // namespace roundtable
