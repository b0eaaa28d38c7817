// Experts that few tokens of the calibration set choose. Their importance comes of a handful of tokens, or of none: they
// are shown more, for the search of scales alone.
#pragma once

#include <cstdint>
#include <vector>

#include "base/sample_range.h"
#include "graph/states.h"
#include "tune/losses/importance.h"
#include "tune/tuning_unit.h"

namespace roundtable {

// Of the experts of one block.
struct StarvedExperts {
  std::int64_t starved = 0;  // fewer than the least number of tokens have chosen them
  std::int64_t added = 0;    // tokens that were sent to them in addition
  std::int64_t left = 0;     // experts that have fewer even with these

  bool operator==(const StarvedExperts&) const = default;
};

// The experts of a block that have a layer with a scheme; [experts], or empty without experts. `linears` and `schemes`
// are those of the block's table.
std::vector<bool> quantized_experts(const Block& block, const std::vector<LinearSpec>& linears,
                                    const BlockSchemes& schemes);

// Tokens that the experts have seen since the last clear_expert_tokens(), of all ranks. Collective over `group`; blocks.
std::vector<std::int64_t> tokens_of_group(const Block& block, HostCommunicator& group);

// The samples of a calibration set: this rank has `range` of the `all`.
struct CalibrationSamples {
  const States& states;  // that enter the block
  SampleRange range;
  std::int64_t all = 0;
};

// Call after run_block() over these samples, ahead of which the block's tokens were cleared. Experts of `quantized` that
// fewer than `least` tokens chose are shown so many more (MoreTokens), which `inputs`, if any, adds to what it has of
// them; without it they are only counted. Nothing else of the block changes but its counts of tokens. Collective over
// `group`: all ranks find the same.
StarvedExperts show_more_tokens(Block& block, const CalibrationSamples& samples, const std::vector<bool>& quantized,
                                std::int64_t least, Importance* inputs, HostCommunicator& group);

}  // namespace roundtable
