// Planning in four steps: decide, check, warn, forecast.
#include <algorithm>

#include "export/checkpoint_files.h"
#include "export/registry.h"
#include "io/json_file.h"
#include "plan/checks.h"
#include "plan/layer_schemes.h"
#include "plan/layout.h"
#include "plan/plan.h"
#include "plan/warnings.h"

namespace roundtable {
namespace {

// What the groups write while they tune: the first output format, or where that holds no integers (a restart needs
// them), the home of such weights.
const PackedFormat& tuned_format(const std::vector<const CheckpointFormat*>& formats, WeightType type) {
  const PackedFormat* first = as_packed(*formats.front());
  return first != nullptr ? *first : home_of(type);
}

std::vector<Stage> decide_stages(const Config& config, const Plan& plan) {
  const std::int64_t blocks = plan.model.n_blocks;
  if (config.tuning.use_quant_input) return cut_stages(blocks, count_stages(config, blocks, plan.groups));
  // A block tuned on the float chain needs nothing of the blocks before it.
  std::vector<Stage> stages;
  for (std::int64_t first = 0; first < blocks; first += plan.joint_blocks) {
    stages.push_back({first, std::min(first + plan.joint_blocks, blocks)});
  }
  return stages;
}

// Ranks per group; by the cost model if the cluster is described.
int decide_shards(const Config& config, const Plan& plan) {
  if (config.cluster.nodes > 0) return choose_layout(config, plan.model, plan.schemes, plan.world).layout.shards;
  return choose_shards(config.parallel.shards, plan.world, sharded_strata(config, plan.batch));
}

// Bytes of an element of the model's own weights, by config.json.
std::int64_t float_bytes(const std::string& directory) {
  const JsonObject json = JsonObject::load(directory + "/config.json");
  return json.get_string_or("dtype", json.get_string_or("torch_dtype", "float32")) == "float32" ? 4 : 2;
}

std::uint64_t bytes_of(const ParameterSpec& spec, std::int64_t element) {
  std::int64_t count = element;
  for (const std::int64_t dimension : spec.shape) count *= dimension;
  return static_cast<std::uint64_t>(count);
}

// What the largest block takes in the checkpoint.
std::uint64_t largest_block(const Plan& plan, std::int64_t element) {
  const std::vector<LinearSpec> linears = block_linears(plan.model);
  std::uint64_t largest = 0;
  for (const BlockSchemes& schemes : plan.schemes) {
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < linears.size(); ++i) {
      if (!schemes[i]) {
        bytes += bytes_of(linears[i].weight(), element);
        continue;
      }
      for (const TensorSpec& tensor : plan.tuned->layout(linears[i], *schemes[i], torch::kFloat32))
        bytes += tensor.bytes();
    }
    for (const ParameterSpec& norm : block_norms(plan.model)) bytes += bytes_of(norm, element);
    largest = std::max(largest, bytes);
  }
  return largest;
}

// Which files there will be. Groups write one file per block while they tune. If one would be too large, or a run
// cannot resume from the first output format, the output is made from what the groups wrote, as convert does it.
void decide_files(const Config& config, Plan& plan) {
  const std::int64_t limit = config.output.max_shard_size.bytes();
  const std::int64_t element = float_bytes(config.model.path);
  const bool fits = largest_block(plan, element) <= static_cast<std::uint64_t>(limit);
  plan.tuned_in_place = fits && plan.tuned == plan.formats.front();
  const std::vector<ParameterSpec> outside = outside_parameters(plan.model);
  std::vector<std::uint64_t> sizes;
  for (const ParameterSpec& spec : outside) sizes.push_back(bytes_of(spec, element));
  for (const std::vector<std::size_t>& file : cut_by_size(sizes, limit)) {
    plan.outside_files.emplace_back();
    for (const std::size_t i : file) plan.outside_files.back().push_back(outside[i]);
  }
}

// Everything that the config, config.json and the ranks decide. Throws Error (kBadInput) only for what cannot be
// decided: an unknown model or format, and rules that contradict the model.
Plan decide(const Config& config, const World& world) {
  Plan plan;
  plan.model = load_model_config(config.model.path);
  plan.world = world;
  plan.batch = config.tuning.batch_size * config.tuning.gradient_accumulate_steps;
  // Rounding to nearest takes no steps: the batch need not be filled.
  if (config.tuning.iters == 0) plan.batch = std::min(plan.batch, config.calibration.n_samples);
  for (const std::string& name : config.output.formats) plan.formats.push_back(&format_named(name, "output.formats"));
  plan.tuned = &tuned_format(plan.formats, scheme_of(config.quantization, plan.formats).type);
  LayerSchemes schemes = resolve_schemes(config.quantization, plan.model, plan.formats);
  plan.schemes = std::move(schemes.blocks);
  plan.head = schemes.head;
  plan.float_reasons = std::move(schemes.float_reasons);
  plan.shards = decide_shards(config, plan);
  plan.groups = world.ranks / plan.shards;
  plan.joint_blocks = std::min(config.tuning.n_blocks, plan.model.n_blocks);
  plan.stages = decide_stages(config, plan);
  return plan;
}

Forecast forecast_of(const Config& config, const Plan& plan, std::int64_t held_out_tokens) {
  const Layout layout{plan.world.ranks, plan.world.ranks_a_node, plan.shards, std::ssize(plan.stages)};
  return make_forecast(config, plan.model, plan.schemes, layout, held_out_tokens);
}

}  // namespace

CheckpointScheme checkpoint_scheme(const Config& config, const Plan& plan) {
  const auto scheme_at = [&](const LinearSpec&, std::int64_t block, std::size_t place) {
    return block < 0 ? plan.head : plan.schemes[static_cast<std::size_t>(block)][place];
  };
  return {scheme_of(config.quantization, plan.formats), config.tuning.iters, checkpoint_layers(plan.model, scheme_at)};
}

Plan lay_out(const Config& config, const World& world) {
  Plan plan = decide(config, world);
  check_settings(config, plan);
  decide_files(config, plan);  // asks the formats for sizes, which they have only for what they can hold
  plan.warnings = warnings_of(config, plan);
  plan.forecast = forecast_of(config, plan, 0);
  return plan;
}

Plan make_plan(const Config& config, const World& world) {
  Plan plan = lay_out(config, world);
  const std::int64_t held_out_tokens = check_files(config, plan);
  for (const std::string& tokens : {config.calibration.tokens, config.run.eval_tokens}) {
    if (tokens.empty()) continue;
    if (const std::string warning = check_tokenizer(config, tokens); !warning.empty()) plan.warnings.push_back(warning);
  }
  if (held_out_tokens > 0) plan.forecast = forecast_of(config, plan, held_out_tokens);
  return plan;
}

}  // namespace roundtable
