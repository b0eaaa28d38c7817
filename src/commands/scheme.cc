// `roundtable scheme`: what quantization.auto_scheme chooses, without tuning.
#include <fmt/format.h>

#include "base/activity.h"
#include "base/error.h"
#include "base/text.h"
#include "comm/agree.h"
#include "commands/commands.h"
#include "commands/checks/launch_checks.h"
#include "commands/start.h"
#include "commands/summary.h"
#include "io/json_fields.h"
#include "phases/scheme/choose_scheme.h"
#include "plan/path_checks.h"

namespace roundtable {
namespace {

void check_keys_of_scheme(const Config& config) {
  require_keys(config, {"calibration.tokens", "output.path"});
  if (config.quantization.auto_scheme.is_on()) return;
  throw bad_input("config: quantization.auto_scheme", "is not set, so that there is nothing to choose",
                  "write it there, such as {avg_bits: 3.5, options: [w2g64, w4g64, w8g128]}");
}

// The option of every layer that was chosen, by its full name.
nlohmann::json layers_of(const Plan& plan, const Config& config) {
  nlohmann::json layers = nlohmann::json::object();
  for (std::size_t i = 0; i < plan.mixed->ties.size(); ++i) {
    const TiedLayers& tie = plan.mixed->ties[i];
    const std::string word = config.quantization.auto_scheme.options[tie.candidates[plan.chosen[i]].option].word();
    for (const LayerPlace& at : tie.layers) {
      layers[plan.model.block_prefix(at.block) + plan.model.linears(at.block)[at.place].name] = word;
    }
  }
  return layers;
}

// By the last part of a layer's name, how many layers have each option.
std::map<std::string, std::map<std::string, std::int64_t>> counts_by_name(const nlohmann::json& layers) {
  std::map<std::string, std::map<std::string, std::int64_t>> counts;
  for (const auto& [layer, word] : layers.items()) {
    ++counts[layer.substr(layer.rfind('.') + 1)][word.get<std::string>()];
  }
  return counts;
}

void print_choice(const Plan& plan, const Config& config, const nlohmann::json& result) {
  const auto& options = config.quantization.auto_scheme.options;
  fmt::print("\n{:<24}", "layers");
  for (const SchemeOption& option : options) fmt::print(" {:>12}", option.word());
  fmt::print("\n");
  for (const auto& [name, counts] : counts_by_name(result["layers"])) {
    fmt::print("{:<24}", name);
    for (const SchemeOption& option : options) {
      const auto found = counts.find(option.word());
      fmt::print(" {:>12}", found == counts.end() ? 0 : found->second);
    }
    fmt::print("\n");
  }
  const MixedSchemes mixed = figures_of(*plan.mixed, config.quantization, plan.chosen);
  fmt::print("{:<24}", "all");
  for (const SchemeOption& option : options) fmt::print(" {:>12}", mixed.layers.at(option.word()));
  fmt::print("\n\nmean bits    {:.3f} of avg_bits {}\n", mixed.mean_bits, config.quantization.auto_scheme.avg_bits);
  fmt::print("size         about {}\n", human_bytes(result["bytes"].get<std::int64_t>()));
  fmt::print("score        {:.4g}, the least sum of scores within the budget; it compares budgets, and is no forecast\n",
             result["score"].get<double>());
}

}  // namespace

nlohmann::json run_scheme(MpiCommunicator& world, const Config& config) {
  World here = world_of(world);
  here.devices = check_devices(config, world);
  check_shared_memory_everywhere(world, config);
  run_on_root(world, [&] { check_keys_of_scheme(config); });
  const Models models = models_for(world, config);
  Plan plan;
  run_on_root(world, [&] {
    plan = make_plan(config, models, here);
    check_places(config, plan);
  });
  if (world.rank() != 0) plan = lay_out(config, models, here);
  enter_phase("scheme");
  Progress progress(display_stream(world));
  const RankContext ranks = make_rank_context(config, plan.shards, 1, world);
  const std::string folder = RunPaths(config, true).boundary_root(config);
  const ChosenScheme chosen = choose_scheme(ranks, config, plan, folder, progress);
  return run_on_root(world, [&] {
    plan = make_plan(config, models, here, chosen.choice);
    std::int64_t bytes = 0;
    for (const auto& item : plan.forecast.disk) bytes += item.name == "checkpoint" ? item.bytes : 0;
    nlohmann::json result = json_of(figures_of(*plan.mixed, config.quantization, plan.chosen));
    result["bytes"] = bytes;
    result["score"] = chosen.score;
    nlohmann::json options = std::move(result["layers"]);
    result["options"] = std::move(options);
    result["layers"] = layers_of(plan, config);
    print_choice(plan, config, result);
    return result;
  });
}

}  // namespace roundtable
