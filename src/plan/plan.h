// What a run will do and need, decided and checked before any work.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "config/config.h"
#include "export/format.h"
#include "export/scale_check.h"
#include "graph/expert_part.h"
#include "graph/model.h"
#include "plan/auto_scheme/mixed_bits.h"
#include "plan/forecast.h"
#include "plan/shape.h"
#include "tune/block_tuner.h"

namespace roundtable {

// One model with graphs of two sizes.
struct Models {
  Model calibration;  // for calibration.seqlen tokens
  Model evaluation;   // for those of run.eval_tokens; the same where there are none
};

struct Plan {
  Model model;
  Model eval_model;
  World world;
  std::vector<const CheckpointFormat*> formats;           // of the output
  const PackedFormat* tuned = nullptr;                    // the one of them (or of all) that the groups write
  bool tuned_in_place = true;                             // it is the first output format; else that is made from it
  std::vector<std::vector<ParameterSpec>> outside_files;  // what no block holds, file by file
  std::vector<ParameterSpec> carried_over;                // of these, what is no part of the text model
  int shards = 1;
  int groups = 1;
  int expert_parts = 1;  // into which a group divides the experts of a block, one for each of its ranks; 1: it does not
  std::vector<Stage> stages;
  std::int64_t batch = 0;                  // strata: samples per step
  std::int64_t joint_blocks = 1;           // consecutive blocks of a stage that are tuned as one
  std::vector<BlockSchemes> schemes;       // [block], by linear layer
  QuantScheme common;                      // of the section; of auto_scheme's options the one that most weights have
  std::optional<MixedBits> mixed;          // of auto_scheme
  std::vector<std::size_t> chosen;         // of `mixed`, for each of its ties a place among the candidates
  bool is_guess = false;                   // `chosen` stands for a choice that is not yet made
  std::optional<QuantScheme> head;         // of lm_head, where it is quantized
  bool stacks_apart = false;               // experts that the model holds as one tensor are written one by one
  std::set<std::string> by_rule;           // as in LayerSchemes
  std::vector<std::string> float_reasons;  // "mlp.down_proj stays in 16 bits: ..."
  std::vector<std::string> warnings;

  Forecast forecast;

  Layout layout() const { return {world.ranks, world.ranks_a_node, shards, static_cast<std::int64_t>(stages.size()), expert_parts}; }
  // What the rank with shard `shard` of a group holds of the experts.
  ExpertPart expert_part(int shard) const { return expert_parts > 1 ? ExpertPart{shard, expert_parts} : ExpertPart{}; }

  bool quantizes_experts() const;  // of any block

  // Files of the checkpoint that the groups write: those of each block, and those of what no block holds.
  std::int64_t files() const;
  // Of a block: one for each part of its experts. The first has all that is no expert's, too.
  int files_of_block(std::int64_t block) const { return model.table(block).experts > 0 ? expert_parts : 1; }
  std::string block_file(std::int64_t block, int part) const;
  std::string outside_file(std::size_t index) const;
  // Names of all files, and of the index.
  std::set<std::string> weight_files() const;
};

// Decides, checks everything that can be checked, collects the warnings and makes the forecast, in that order. Reads
// the model's headers and the token sets. Throws Error (kBadInput) with the place and the fix. Not collective.
// `choice`: of auto_scheme; empty where there is none yet, and a guess stands for it (Plan::is_guess).
Plan make_plan(const Config& config, const Models& models, const World& world, const SchemeChoice& choice = {});

// The same without files (but for the model's two tables, if they may be tied): what needs the
// model's tensors or token sets is not checked, and the forecast knows no held-out tokens. All decisions are those of
// make_plan(), so that every rank can make them by itself.
Plan lay_out(const Config& config, const Models& models, const World& world, const SchemeChoice& choice = {});

// The output's layers, for formats.
CheckpointScheme checkpoint_scheme(const Config& config, const Plan& plan);

// What tells whether the formats of the run can store the scales of a layer.
ScaleCheck scale_check(const Config& config, const Plan& plan);

// For people.
std::string describe(const Plan& plan, const Config& config);

}  // namespace roundtable
