// The streaming pass: token rows run through a model block by block, all ranks together, each on its own rows.
// A block's weights are read from the file system once for the whole job, and no rank holds more than one block.
#pragma once

#include <functional>

#include "data/token_set.h"
#include "run/run_context.h"

namespace roundtable {

// The rows [range) of a token set, embedded: [range.size(), seqlen, hidden] in env.dtype on env.device.
// Collective over the world.
torch::Tensor embed_rows(const Environment& env, const TensorSource& source, const TokenRows& tokens,
                         const SampleRange& range);

// Runs `hidden` through blocks [0, last); `before_block(block, hidden)` sees what enters each block, and what leaves
// the last one as (last, hidden). Collective over the world. Returns the last hidden states. Throws AgreedError
// (kStartAgain) between blocks when a rank is asked to leave, as measure_perplexity() does.
torch::Tensor run_blocks(const Environment& env, const TensorSource& source, torch::Tensor hidden, std::int64_t last,
                         const std::function<void(std::int64_t block, const torch::Tensor& hidden)>& before_block);

// Perplexity of next-token prediction inside each row: exp of the mean cross entropy over rows * (seqlen - 1) tokens.
struct Perplexity {
  double value = 0;
  std::int64_t tokens = 0;
};

// Measures the model of `directory` (float, or quantized in a layout we read) on a token set. Where `logits_path` is
// not empty (one rank only), the logits of all rows are written there as safetensors, `logits` [rows, seqlen, vocab].
// `on_block` is called after each block. Collective over the world.
Perplexity measure_perplexity(const Environment& env, const std::string& directory, const std::string& token_path,
                              const std::string& logits_path, const std::function<void()>& on_block);

}  // namespace roundtable
