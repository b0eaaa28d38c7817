// The shape of a run that follows from its config alone: samples per pass, strata, stages. The other files of this
// folder count with it, and the phases work by it.
#pragma once

#include <cstdint>

#include "config/config.h"
#include "graph/model.h"

namespace roundtable {

// Consecutive blocks [first, last) that one group tunes in order.
struct Stage {
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::int64_t size() const { return last - first; }
};

// What the ranks work on, in words for people.
struct WorldDevices {
  std::string names;    // "8 x NVIDIA H100 80GB HBM3, NCCL 2.29.7"; empty: a described cluster's
  std::string kinds;    // the same without numbers, for what must not depend on the number of ranks; empty: CPUs
  std::string why_cpu;  // why no CUDA device is used although one would be taken; else empty
};

// The ranks of this run, as far as the plan depends on them.
struct World {
  int ranks = 1;
  int ranks_a_node = 1;
  int parts_on_record = 0;  // Plan::expert_parts of the start that began this run; 0: this one does
  WorldDevices devices{};
};

// The world divided into groups x shards, and the blocks into stages.
struct Layout {
  int ranks = 1;
  int ranks_a_node = 1;
  int shards = 1;
  std::int64_t stages = 1;
  int expert_parts = 1;  // as in Plan
  int groups() const { return ranks / shards; }
};

// The weights of a block's linear layers that may be quantized.
std::int64_t count_block_parameters(const Model& model, std::int64_t block);

// Samples that a rank passes through a block at once while it tunes: its share of batch_size unless the config says.
std::int64_t micro_batch_of(const Config& config, int shards);
// The same for passes without gradients; 0 leaves it to run_block().
std::int64_t pass_width_of(const Config& config);

// The number that the shards of a group must divide: a step's samples; if the run is to be reproducible, the largest
// power of two in them (sum_gradients_by_tree).
std::int64_t sharded_strata(const Config& config, std::int64_t strata);

// Stages of a chain of `blocks` blocks: parallel.stages, or one per group. On a described cluster none is shorter than
// kLeastStage, because shorter ones cost quality (src/phases/README.md, "Stages").
std::int64_t count_stages(const Config& config, std::int64_t blocks, int groups);
inline constexpr std::int64_t kLeastStage = 4;

}  // namespace roundtable
