// What a run will do and take, decided and checked before any work.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/token_set.h"
#include "model/model_config.h"
#include "pipeline/forecast.h"
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
};

// Checks the config, the model's headers and the token sets, and lays out the work. Reads headers only.
// Throws Error (kBadInput) with the place and the mend. Not collective.
Plan make_plan(const Config& config, const World& world);

// The part of a plan that needs no files beside config.json, its forecast without `eval_tokens`; the same on every rank.
Plan lay_out(const Config& config, const World& world);

// For people.
std::string describe(const Plan& plan, const Config& config);

// Cuts `blocks` blocks into `stages` runs of nearly equal length, the longer ones first.
std::vector<Stage> cut_stages(std::int64_t blocks, std::int64_t stages);

// Throws Error (kBadInput), opened by `place`, where the model has a learned position for fewer than `seqlen` tokens.
void check_length(const ModelConfig& model, std::int64_t seqlen, const std::string& place);

}  // namespace roundtable
