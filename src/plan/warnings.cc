// The warnings, one function per subject.
#include "plan/warnings.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "export/registry.h"

namespace roundtable {
namespace {

bool any_asymmetric(const Plan& plan) {
  for (const BlockSchemes& schemes : plan.schemes) {
    for (const auto& scheme : schemes) {
      if (scheme && !scheme->symmetric) return true;
    }
  }
  return false;
}

void warn_of_second_copy(const Plan& plan, std::vector<std::string>& warnings) {
  if (plan.tuned_in_place) return;
  const bool packed = plan.tuned == plan.formats.front();
  warnings.push_back(fmt::format(
      "{}: the tuned blocks are written to the run directory as {}, and the output is made from them: both need disk "
      "space",
      packed ? "a block is larger than output.max_shard_size"
             : fmt::format("a run cannot resume from {}, which holds no integers", plan.formats.front()->name()),
      plan.tuned->name()));
}

// Engines cut a layer that sums over its inputs (o and down) along them, one part per device.
void warn_of_tensor_parallel(const Plan& plan, std::vector<std::string>& warnings) {
  std::map<std::string, std::set<int>> sizes;  // "mlp.down_proj (1536 inputs, groups of 128)" -> sizes
  const std::vector<LinearSpec> linears = block_linears(plan.model);
  for (const BlockSchemes& schemes : plan.schemes) {
    for (std::size_t i = 0; i < linears.size(); ++i) {
      const LinearSpec& linear = linears[i];
      const bool cut = linear.name == plan.model.block_names.o || linear.name.ends_with(plan.model.block_names.down);
      if (!cut || !schemes[i] || schemes[i]->group_size < 0 || expert_of(plan.model, linear.name) > 0) continue;
      for (const int size : {2, 4, 8}) {
        if (linear.in % size != 0 || linear.in / size % schemes[i]->group_size == 0) continue;
        sizes[fmt::format("{} ({} inputs, groups of {})", linear.name, linear.in, schemes[i]->group_size)].insert(size);
      }
    }
  }
  for (const auto& [layer, of_layer] : sizes) {
    warnings.push_back(
        fmt::format("tensor parallelism over {} devices would cut a group of {}", fmt::join(of_layer, " or "), layer));
  }
}

void warn_of_readers(const Plan& plan, std::vector<std::string>& warnings) {
  if (!any_asymmetric(plan)) return;
  const auto wanted = [&](const CheckpointFormat& format) {
    return std::find(plan.formats.begin(), plan.formats.end(), &format) != plan.formats.end();
  };
  if (wanted(auto_gptq_format())) {  // tests/peer/gptqmodel_test.py shows it
    warnings.push_back(
        "auto_gptq: GPTQModel 7.7 loads asym only if it was the quantizer itself; auto-round's reader loads it");
  }
  if (plan.formats.front() == &auto_round_auto_gptq_format()) {
    // auto-round 0.16.1, inference/backend.py: its torch_zp backend takes sym alone.
    warnings.push_back("asym in auto_round:auto_gptq is read on GPUs; auto-round 0.16.1 has no CPU backend for it");
  }
}

// From stages of so many blocks on, no loss is seen (src/phases/README.md, "Groups, shards and stages").
constexpr std::int64_t kCleanStage = 8;

// Where the ranks of a node do not divide the samples of a step, they cannot form one group.
std::string way_to_fewer_groups(const Plan& plan) {
  const int node = plan.world.ranks_a_node;
  if (plan.shards == node || plan.batch % node == 0) return "";
  return fmt::format(", or start a number of ranks per node that divides the {} samples of a step, which {} does not",
                     plan.batch, node);
}

void warn_of_stages(const Config& config, const Plan& plan, std::vector<std::string>& warnings) {
  if (std::ssize(plan.stages) < plan.groups) {
    warnings.push_back(
        fmt::format("{} groups for {} stages: some ranks will have no work", plan.groups, plan.stages.size()));
  }
  if (config.run.reproducible && config.parallel.stages == 0 && config.tuning.use_quant_input) {
    warnings.push_back(
        fmt::format("run.reproducible: the number of stages ({}) follows the number of groups; set "
                    "parallel.stages to keep the bytes on other numbers of groups",
                    plan.stages.size()));
  }
  if (config.tuning.use_quant_input && config.parallel.stages == 0 && plan.stages.size() > 1 &&
      plan.stages.back().size() < kCleanStage) {
    warnings.push_back(fmt::format(
        "the number of stages ({}) follows the number of groups, and stages of fewer than {} blocks cost quality; set "
        "parallel.stages=1 for the quality of one group{}",
        plan.stages.size(), kCleanStage, way_to_fewer_groups(plan)));
  }
  if (!config.calibration.estimate.empty() && plan.stages.size() == 1) {
    warnings.push_back("calibration.estimate changes nothing: the only stage starts from the embeddings");
  }
}

void warn_of_length(const Config& config, const Plan& plan, std::vector<std::string>& warnings) {
  if (config.calibration.seqlen <= plan.model.max_position_embeddings) return;
  warnings.push_back(fmt::format("calibration.seqlen {} is larger than the model's max_position_embeddings {}",
                                 config.calibration.seqlen, plan.model.max_position_embeddings));
}

}  // namespace

std::vector<std::string> warnings_of(const Config& config, const Plan& plan) {
  std::vector<std::string> warnings;
  warn_of_second_copy(plan, warnings);
  warn_of_tensor_parallel(plan, warnings);
  warn_of_readers(plan, warnings);
  warn_of_stages(config, plan, warnings);
  warn_of_length(config, plan, warnings);
  return warnings;
}

}  // namespace roundtable
