// plan and eval, and what all commands share.
#include "commands/commands.h"

#include <fmt/ranges.h>
#include <torch/types.h>

#include <optional>

#include "base/activity.h"
#include "base/error.h"
#include "io/checkpoint.h"
#include "convert/convert.h"
#include "plan/checks.h"
#include "run/progress.h"
#include "commands/start.h"
#include "phases/forward_pass.h"
#include "commands/trial.h"

namespace roundtable {

Config load_config_everywhere(MpiCommunicator& world, const std::string& path,
                              const std::vector<std::string>& overrides, const std::string& cluster_file) {
  // The file itself may be on rank 0's node alone; its resolved form travels.
  const std::string yaml = run_on_root(world, [&] { return to_yaml(load_config(path, overrides, cluster_file)); });
  return parse_config(yaml, path);
}

namespace {

nlohmann::json to_json(const std::vector<Forecast::Bytes>& items) {
  nlohmann::json object = nlohmann::json::object();
  for (const auto& item : items) object[item.name] = item.bytes;
  return object;
}

nlohmann::json to_json(const Plan& plan) {
  nlohmann::json seconds = nlohmann::json::object();
  for (const auto& phase : plan.forecast.phases) seconds[phase.name] = phase.seconds;
  return {{"ranks", plan.world.ranks},
          {"groups", plan.groups},
          {"shards", plan.shards},
          {"stages", plan.stages.size()},
          {"bytes_a_rank", plan.forecast.memory_bytes()},
          {"memory", to_json(plan.forecast.memory)},
          {"disk", to_json(plan.forecast.disk)},
          {"traffic", to_json(plan.forecast.traffic)},
          {"seconds", seconds},
          {"layers_in_16_bits", plan.float_reasons}};
}

// On the cluster that the config describes; without one, on the ranks that are here.
Plan make_plan_for(const Config& config, const World& here) {
  const auto& cluster = config.cluster;
  if (cluster.nodes == 0) {
    require_keys(config, {"calibration.tokens", "output.path"});
    return make_plan(config, here);
  }
  const World there{static_cast<int>(cluster.nodes * cluster.devices_a_node), static_cast<int>(cluster.devices_a_node)};
  if (has_checkpoint(config.model.path) && !config.calibration.tokens.empty()) return make_plan(config, there);
  Plan plan = lay_out(config, there);
  plan.warnings.push_back("a forecast from config.json alone: weights and token sets were not looked at");
  return plan;
}

}  // namespace

nlohmann::json run_plan(MpiCommunicator& world, const Config& config, bool trial) {
  const World ranks = world_of(world);
  nlohmann::json result;
  Plan plan;
  const std::string text = run_on_root(world, [&] {
    if (trial && config.cluster.nodes > 0) {
      throw bad_input("--trial", "runs on the ranks that are here, and the config describes other ones", "leave --cluster out");
    }
    plan = make_plan_for(config, ranks);
    result = to_json(plan);
    return describe(plan, config);
  });
  if (world.rank() == 0) fmt::print("{}", text);
  if (!trial) return result;
  std::fflush(stdout);
  if (world.rank() != 0) plan = lay_out(config, ranks);
  const nlohmann::json tried = run_trial(world, config, plan);
  if (world.rank() != 0) return result;
  result["trial"] = tried;
  fmt::print("{}", describe_trial(tried));
  return result;
}

nlohmann::json run_eval(MpiCommunicator& world, const Config& config) {
  Plan plan;
  run_on_all(world, [&] {
    require_keys(config, {"run.eval_tokens"});
    plan.model = load_model_config(config.model.path);
    plan.world = world_of(world);
    if (!config.run.logits.empty() && world.size() > 1) {
      throw bad_input("run.logits", "is written by one rank", "start eval on a single rank");
    }
    const TokenRows tokens = load_tokens(config.run.eval_tokens, 0, 0, plan.model.vocab_size);
    check_length(plan.model, tokens.seqlen, config.run.eval_tokens);
  });
  Environment env = make_environment(config, plan, world);
  enter_phase("evaluate");
  Progress progress(display_stream(world));
  progress.begin_phase("evaluate", plan.model.n_blocks);
  const Perplexity result = measure_perplexity(env, config.model.path, config.run.eval_tokens, config.run.logits,
                                               [&] { progress.advance(1); });
  progress.end_phase();
  if (world.rank() == 0) {
    fmt::print("perplexity {:.4f} over {} tokens of {}\n", result.value, result.tokens, config.run.eval_tokens);
  }
  return {{"perplexity", result.value}, {"tokens", result.tokens}};
}

std::string describe_formats() { return names_of(checkpoint_formats()); }

nlohmann::json run_convert(MpiCommunicator& world, const ConvertOptions& options) {
  std::string record = options.output;
  while (record.size() > 1 && record.back() == '/') record.pop_back();
  Conversion conversion{options.source, nullptr, options.output, record + ".run", 0};
  run_on_all(world, [&] {
    conversion.format = &format_named(options.format, "--format");
    const std::optional<ByteSize> size = ByteSize::parse(options.max_shard_size);
    if (!size || size->empty()) {
      throw bad_input("--max-shard-size", fmt::format("'{}' is not a size", options.max_shard_size),
                      "write a size such as 5GB");
    }
    conversion.max_shard_size = size->bytes();
  });
  const auto node = world.split_by_node();
  set_threads(0, node->rank(), node->size());
  const Converted converted = convert_checkpoint(world, conversion, {});
  if (world.rank() == 0) {
    fmt::print("{} in {}: {} in {} {}\n", options.format, options.output, human_bytes(converted.bytes), converted.files,
               converted.files == 1 ? "file" : "files");
  }
  return {{"output", options.output}, {"format", options.format}, {"files", converted.files}, {"bytes", converted.bytes}};
}

}  // namespace roundtable
