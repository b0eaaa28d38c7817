// `roundtable plan`: checks everything, and says what a run will take.
#include "plan/plan.h"

#include <fmt/format.h>

#include <cstdio>

#include "base/error.h"
#include "comm/agree.h"
#include "commands/commands.h"
#include "commands/checks/launch_checks.h"
#include "commands/start.h"
#include "commands/summary.h"
#include "commands/trial.h"
#include "io/checkpoint.h"
#include "io/json_fields.h"
#include "phases/scheme/choose_scheme.h"
#include "plan/path_checks.h"
#include "run/resume.h"

namespace roundtable {
namespace {

nlohmann::json to_json(const std::vector<Forecast::Bytes>& items) {
  nlohmann::json object = nlohmann::json::object();
  for (const auto& item : items) object[item.name] = item.bytes;
  return object;
}

nlohmann::json to_json(const Plan& plan, const Config& config) {
  nlohmann::json seconds = nlohmann::json::object();
  for (const auto& phase : plan.forecast.phases) seconds[phase.name] = phase.seconds;
  nlohmann::json auto_scheme;  // null: it is off, or nothing is chosen yet
  if (plan.mixed && !plan.is_guess) auto_scheme = json_of(figures_of(*plan.mixed, config.quantization, plan.chosen));
  return {{"devices", plan.world.devices.names},
          {"ranks", plan.world.ranks},
          {"auto_scheme", auto_scheme},
          {"groups", plan.groups},
          {"shards", plan.shards},
          {"expert_parts", plan.expert_parts},
          {"stages", plan.stages.size()},
          {"bytes_a_rank", plan.forecast.memory_bytes()},
          {"memory", to_json(plan.forecast.memory)},
          {"disk", to_json(plan.forecast.disk)},
          {"traffic", to_json(plan.forecast.traffic)},
          {"seconds", seconds},
          {"layers_in_16_bits", plan.float_reasons}};
}

void check_keys(const Config& config, bool trial) {
  if (trial && config.cluster.nodes > 0) {
    throw bad_input("--trial", "runs on the ranks of this job, and the config describes other ones",
                    "leave --cluster out");
  }
  if (config.cluster.nodes == 0) require_keys(config, {"calibration.tokens", "output.path"});
}

// Whether the forecast is for ranks that are elsewhere, of a model or samples that are not here: by config.json alone.
bool is_without_files(const Config& config) {
  return config.cluster.nodes > 0 && (!has_checkpoint(config.model.path) || config.calibration.tokens.empty());
}

// On the cluster that the config describes; without one, on the ranks that are here.
Plan make_plan_for(const Config& config, const Models& models, const World& here, const SchemeChoice& choice) {
  const auto& cluster = config.cluster;
  if (cluster.nodes == 0) {
    Plan plan = make_plan(config, models, here, choice);
    check_places(config, plan);
    return plan;
  }
  const World there{static_cast<int>(cluster.nodes * cluster.devices_a_node), static_cast<int>(cluster.devices_a_node)};
  if (!is_without_files(config)) return make_plan(config, models, there, choice);
  Plan plan = lay_out(config, models, there, choice);
  plan.warnings.push_back("this forecast knows only config.json: weights and token sets were not read");
  return plan;
}

// What auto_scheme has chosen for a run that was begun, or what the scores that are there lead to; empty: it is not known.
SchemeChoice known_choice(const Config& config, const Plan& plan) {
  if (!plan.is_guess || is_without_files(config) || config.output.path.empty()) return {};
  const RunPaths paths(config, plan.tuned_in_place);
  SchemeChoice choice = scheme_on_record(paths, config);
  if (!choice.empty()) return choice;
  const auto chosen = choose_by_scores_on_disk(config, plan, paths.boundary_root(config));
  return chosen ? chosen->choice : SchemeChoice();
}

}  // namespace

nlohmann::json run_plan(MpiCommunicator& world, const Config& config, bool trial) {
  World ranks = world_of(world);
  if (config.cluster.nodes == 0) {  // a described cluster is another machine than this one
    ranks.devices = check_devices(config, world);
    check_shared_memory_everywhere(world, config);
  }
  nlohmann::json result;
  run_on_root(world, [&] { check_keys(config, trial); });
  if (config.cluster.nodes == 0) {
    ranks.parts_on_record = run_on_root(world, [&] { return parts_on_record(RunPaths(config, true)); });
  }
  Models models;
  if (run_on_root(world, [&] { return is_without_files(config); })) {
    models.calibration = models.evaluation = model_for(world, config, config.calibration.seqlen);
  } else {
    models = models_for(world, config);
  }
  Plan plan;
  SchemeChoice choice;
  const std::string text = run_on_root(world, [&] {
    plan = make_plan_for(config, models, ranks, choice);
    choice = known_choice(config, plan);
    if (!choice.empty()) plan = make_plan_for(config, models, ranks, choice);
    result = to_json(plan, config);
    return describe(plan, config);
  });
  if (world.rank() == 0) fmt::print("{}", text);
  if (!trial) return result;
  std::fflush(stdout);
  choice = run_on_root(world, [&] { return choice; });
  if (world.rank() != 0) plan = lay_out(config, models, ranks, choice);
  const nlohmann::json tried = run_trial(world, config, plan);
  if (world.rank() != 0) return result;
  result["trial"] = tried;
  fmt::print("{}", describe_trial(tried));
  return result;
}

}  // namespace roundtable
