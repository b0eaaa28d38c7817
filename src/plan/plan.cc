// Planning: layout of ranks, stages, schemes and files; forecasts.
#include "plan/plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "comm/rank_grid.h"
#include "io/json_file.h"
#include "plan/layer_schemes.h"
#include "plan/checks.h"
#include "rundir/paths.h"
#include "export/checkpoint_files.h"
#include "export/registry.h"

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
  if (!config.tuning.use_quant_input) {
    // A block tuned on the float chain needs nothing of the blocks before it.
    std::vector<Stage> stages;
    for (std::int64_t first = 0; first < blocks; first += plan.joint_blocks) {
      stages.push_back({first, std::min(first + plan.joint_blocks, blocks)});
    }
    return stages;
  }
  if (config.parallel.stages > blocks) {
    throw bad_input("parallel.stages",
                    fmt::format("{} stages are more than the model's {} blocks", config.parallel.stages, blocks));
  }
  return cut_stages(blocks, count_stages(config, blocks, plan.groups));
}

// Ranks a group, by the cost model where the cluster is described.
int count_shards(const Config& config, const Plan& plan) {
  const auto& world = plan.world;
  const int wanted = choose_shards(config.parallel.shards, world.ranks, world.ranks_a_node,
                                   sharded_strata(config, plan.batch));
  if (config.cluster.nodes == 0) return wanted;
  return choose_layout(config, plan.model, plan.schemes, world.ranks, world.ranks_a_node).shards;
}

bool any_asymmetric(const Plan& plan) {
  for (const BlockSchemes& schemes : plan.schemes) {
    for (const auto& scheme : schemes) {
      if (scheme && !scheme->symmetric) return true;
    }
  }
  return false;
}

// "8 bits, sym, groups of 32: 12 layers", where not all quantized layers are alike.
std::vector<std::string> mixture_lines(const Plan& plan) {
  std::map<std::string, std::int64_t> layers;
  for (const BlockSchemes& schemes : plan.schemes) {
    for (const auto& scheme : schemes) {
      if (scheme) ++layers[scheme_text(*scheme)];
    }
  }
  std::vector<std::string> lines;
  if (layers.size() > 1) {
    for (const auto& [text, count] : layers) lines.push_back(fmt::format("{}: {} layers", text, count));
  }
  return lines;
}

Forecast forecast_of(const Config& config, const Plan& plan, std::int64_t eval_tokens) {
  const Layout layout{plan.world.ranks, plan.world.ranks_a_node, plan.shards,
                      static_cast<std::int64_t>(plan.stages.size())};
  return make_forecast(config, plan.model, plan.schemes, layout, eval_tokens);
}

}  // namespace

std::vector<Stage> cut_stages(std::int64_t blocks, std::int64_t stages) {
  std::vector<Stage> cut;
  std::int64_t first = 0;
  for (std::int64_t i = 0; i < stages; ++i) {
    const std::int64_t size = blocks / stages + (i < blocks % stages ? 1 : 0);
    cut.push_back({first, first + size});
    first += size;
  }
  return cut;
}

CheckpointScheme checkpoint_scheme(const Config& config, const Plan& plan) {
  const auto scheme_at = [&](const LinearSpec&, std::int64_t block, std::size_t place) {
    return block < 0 ? plan.head : plan.schemes[static_cast<std::size_t>(block)][place];
  };
  return {scheme_of(config.quantization, plan.formats), config.tuning.iters, checkpoint_layers(plan.model, scheme_at)};
}

namespace {

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
      for (const TensorSpec& tensor : plan.tuned->layout(linears[i], *schemes[i], torch::kFloat32)) bytes += tensor.bytes();
    }
    for (const ParameterSpec& norm : block_norms(plan.model)) bytes += bytes_of(norm, element);
    largest = std::max(largest, bytes);
  }
  return largest;
}

// Which files there will be. Groups write a file a block while they tune; where one would be too large, or the format
// is not one that a run can go on from, the output is made from what they wrote, as convert does it.
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
  if (plan.tuned_in_place) return;
  plan.warnings.push_back(fmt::format(
      "{}: what is tuned lies in the run's directory as {}, and the output is made from it: disk for both is needed",
      fits ? std::string(plan.formats.front()->name()) + " holds no integers to go on from"
           : "a block is larger than output.max_shard_size",
      plan.tuned->name()));
}

// Engines cut a layer that sums over its inputs (o and down) along them, one part a device.
void warn_of_tensor_parallel(Plan& plan) {
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
    plan.warnings.push_back(fmt::format("tensor parallelism over {} devices would cut a group of {}",
                                        fmt::join(of_layer, " or "), layer));
  }
}

// tests/peer/gptqmodel_test.py shows it.
void warn_of_gptqmodel(Plan& plan) {
  const bool auto_gptq = std::any_of(plan.formats.begin(), plan.formats.end(),
                                     [](const CheckpointFormat* format) { return format == &auto_gptq_format(); });
  const bool asym = std::any_of(plan.schemes.begin(), plan.schemes.end(), [](const BlockSchemes& schemes) {
    return std::any_of(schemes.begin(), schemes.end(), [](const auto& scheme) { return scheme && !scheme->symmetric; });
  });
  if (!auto_gptq || !asym) return;
  plan.warnings.push_back(
      "auto_gptq: GPTQModel 7.7 loads asym only where it was the quantizer itself; auto-round's reader loads it");
}

}  // namespace

Plan lay_out(const Config& config, const World& world) {
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
  check_reproducible(config);
  const CheckpointScheme checkpoint = checkpoint_scheme(config, plan);
  for (const CheckpointFormat* format : plan.formats) {
    refuse_obstacle("output.formats", *format, plan.model, checkpoint);
  }
  decide_files(config, plan);
  warn_of_tensor_parallel(plan);
  warn_of_gptqmodel(plan);
  plan.shards = count_shards(config, plan);
  check_votes(config, plan.shards);
  plan.groups = world.ranks / plan.shards;
  plan.joint_blocks = std::min(config.tuning.n_blocks, plan.model.n_blocks);
  plan.stages = decide_stages(config, plan);
  if (any_asymmetric(plan) && plan.formats.front() == &auto_round_auto_gptq_format()) {
    // auto-round 0.16.1, inference/backend.py: its torch_zp backend takes sym alone.
    plan.warnings.push_back("asym in auto_round:auto_gptq is read on GPUs; auto-round 0.16.1 has no CPU backend for it");
  }
  if (static_cast<std::int64_t>(plan.stages.size()) < plan.groups) {
    plan.warnings.push_back(fmt::format("{} groups for {} stages: some ranks will have no work",
                                        plan.groups, plan.stages.size()));
  }
  if (config.run.reproducible && config.parallel.stages == 0 && config.tuning.use_quant_input) {
    plan.warnings.push_back(fmt::format("run.reproducible: the number of stages ({}) follows the number of groups; set "
                                        "parallel.stages to keep the bytes on other numbers of groups",
                                        plan.stages.size()));
  }
  if (config.tuning.optimizer == OptimizerKind::kAdamW && config.tuning.momentum > 0) {
    throw bad_input("tuning.momentum", "is signround's; adamw has its own", "leave it at 0");
  }
  check_samples(config, plan);
  plan.forecast = forecast_of(config, plan, 0);
  return plan;
}

Plan make_plan(const Config& config, const World& world) {
  Plan plan = lay_out(config, world);
  check_tensors(config, plan);
  check_estimate(config, plan);
  for (const CheckpointFormat* format : plan.formats) {
    if (const auto reason = format->directory_obstacle(config.model.path)) {
      throw bad_input("output.formats", fmt::format("{} cannot hold this: {}", format->name(), *reason),
                      "leave this format out");
    }
  }
  if (const std::int64_t held_out = check_tokens(config, plan); held_out > 0) {
    plan.forecast = forecast_of(config, plan, held_out);
  }
  return plan;
}

namespace {

std::string listed(const std::vector<Forecast::Bytes>& items) {
  std::string text;
  for (const auto& item : items) {
    if (item.bytes > 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", item.name, human_bytes(item.bytes));
  }
  return text.empty() ? "nothing" : text;
}

std::string place_of_boundaries(const Config& config, const Plan& plan) {
  if (config.output.path.empty() && config.run.directory.empty() && config.calibration.cache.empty()) {
    return "boundaries in the run directory";  // of a forecast that names no output
  }
  return fmt::format("boundaries in {}{}", RunPaths(config, plan.tuned_in_place).boundary_root(config),
                     config.calibration.cache.empty() ? "" : ", where they stay for other runs");
}

}  // namespace

std::string describe(const Plan& plan, const Config& config) {
  std::string text;
  const auto line = [&](const char* what, const std::string& value) {
    text += fmt::format("  {:<12} {}\n", what, value);
  };
  text += "plan\n";
  line("model", fmt::format("{} ({}), {} blocks of {:.1f} M weights", config.model.path, plan.model.model_type,
                            plan.model.n_blocks, static_cast<double>(count_block_parameters(plan.model)) / 1e6));
  line("weights", fmt::format("{}, {}", scheme_text(scheme_of(config.quantization, plan.formats)),
                              fmt::join(config.output.formats, ", ")));
  for (const std::string& layers : mixture_lines(plan)) line("mixed", layers);
  if (plan.head) line("lm_head", scheme_text(*plan.head) + ", rounded to nearest");
  line("ranks", fmt::format("{} = {} groups x {} shards, {} a node", plan.world.ranks, plan.groups, plan.shards,
                            plan.world.ranks_a_node));
  line("stages", fmt::format("{} of up to {} blocks", plan.stages.size(), plan.stages.front().size()));
  line("steps", fmt::format("{} iterations a block, {} samples a step of {} tokens", config.tuning.iters, plan.batch,
                            config.calibration.seqlen));
  const Forecast& f = plan.forecast;
  line("memory", fmt::format("about {} a rank: {}", human_bytes(f.memory_bytes()), listed(f.memory)));
  line("disk", listed(f.disk) + "; " + place_of_boundaries(config, plan));
  line("traffic", listed(f.traffic));
  for (const auto& phase : f.phases) {
    line("time", fmt::format("{} {}, bound by {}", phase.name, human_seconds(phase.seconds), phase.bound_by));
  }
  if (!f.phases.empty()) line("time", fmt::format("{} in all", human_seconds(f.seconds())));
  for (const std::string& reason : plan.float_reasons) line("16 bits", reason);
  for (const std::string& warning : plan.warnings) line("warning", warning);
  return text;
}

}  // namespace roundtable
