// What a run will do and take, decided and checked before any work.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/token_set.h"
#include "export/format.h"
#include "model/description/block_layout.h"
#include "model/description/model_config.h"
#include "plan/forecast.h"
#include "tune/block_tuner.h"

namespace roundtable {

// A run of consecutive blocks [first, last) that one group tunes in order.
struct Stage {
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::int64_t size() const { return last - first; }
};

// The ranks of this run, as far as the plan depends on them.
struct World {
  int ranks = 1;
  int ranks_a_node = 1;
};

struct Plan {
  ModelConfig model;
  World world;
  std::vector<const CheckpointFormat*> formats;  // of the output
  const PackedFormat* tuned = nullptr;           // the one of them (or of all) that the groups write
  bool tuned_in_place = true;                    // it is the first one as it shall be; else that is made from it
  std::vector<std::vector<ParameterSpec>> outside_files;  // what no block holds, file by file
  int shards = 1;
  int groups = 1;
  std::vector<Stage> stages;
  std::int64_t batch = 0;                   // strata: samples a step
  std::int64_t joint_blocks = 1;            // consecutive blocks of a stage that are tuned as one
  std::vector<BlockSchemes> schemes;        // [block], by linear layer
  std::optional<QuantScheme> head;          // of lm_head, where it is quantized
  std::vector<std::string> float_reasons;   // "mlp.down_proj stays in 16 bits: ..."
  std::vector<std::string> warnings;

  Forecast forecast;

  // Of the checkpoint that the groups write: one a block, and what no block holds.
  std::int64_t files() const { return model.n_blocks + static_cast<std::int64_t>(outside_files.size()); }
};

// Checks the config, the model's headers and the token sets, and lays out the work. Reads headers only.
// Throws Error (kBadInput) with the place and the mend. Not collective.
Plan make_plan(const Config& config, const World& world);

// The part of a plan that needs no files beside config.json, its forecast without `eval_tokens`; the same on every rank.
Plan lay_out(const Config& config, const World& world);

// The output's layers, for formats.
CheckpointScheme checkpoint_scheme(const Config& config, const Plan& plan);

// For people.
std::string describe(const Plan& plan, const Config& config);

// Cuts `blocks` blocks into `stages` runs of nearly equal length, the longer ones first.
std::vector<Stage> cut_stages(std::int64_t blocks, std::int64_t stages);

}  // namespace roundtable
