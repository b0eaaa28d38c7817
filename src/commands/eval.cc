// `roundtable eval`: the perplexity of one model, and how far it is from the float model that it was made from.
#include <fmt/format.h>

#include <optional>

#include "base/activity.h"
#include "base/error.h"
#include "base/log.h"
#include "comm/agree.h"
#include "commands/commands.h"
#include "commands/checks/eval_checks.h"
#include "commands/start.h"
#include "commands/summary.h"
#include "config/user_path.h"
#include "export/quantized_checkpoint.h"
#include "io/json_fields.h"
#include "phases/measure.h"
#include "plan/checks.h"
#include "plan/path_checks.h"
#include "plan/shape.h"
#include "run/progress.h"

namespace roundtable {
namespace {

void check_settings_of_eval(MpiCommunicator& world, const Config& config) {
  run_on_all(world, [&] {
    require_keys(config, {"run.eval_tokens"});
    if (!config.run.logits.empty() && world.size() > 1) {
      throw bad_input("run.logits", "is written by one rank", "start eval on a single rank");
    }
    if (!config.run.logits.empty()) check_logits_path(config.run.logits);
  });
}

// What --against names, and its model. Collective.
struct FloatModel {
  std::string directory;
  Model model;
};

std::optional<FloatModel> find_float_model(MpiCommunicator& world, const Config& config, const std::string& against,
                                           const Model& model) {
  if (against.empty()) return std::nullopt;
  Config of_float = config;
  of_float.model.path = run_on_root(world, [&] {
    const std::string directory = path_from_user(against, "--against");
    check_is_float(directory);
    return directory;
  });
  FloatModel found{of_float.model.path, model_for_tokens(world, of_float, config.run.eval_tokens)};
  run_on_root(world, [&] {
    const std::string warning = check_same_tokens(config, model, found.directory, found.model);
    if (!warning.empty()) log_warning(warning);
  });
  return found;
}

RankContext divide_ranks(MpiCommunicator& world, const Config& config, const Model& model,
                         const std::optional<FloatModel>& float_model) {
  std::vector<const Model*> models{&model};
  if (float_model) models.push_back(&float_model->model);
  const World ranks = world_of(world);
  int parts = 1;
  run_on_all(world, [&] { parts = choose_eval_parts(config, models, ranks); });
  return make_rank_context(config, /*shards=*/parts, parts, world);
}

void print_measures(const Config& config, const Measures& found) {
  fmt::print("perplexity {:.4f} over {} tokens of {}\n", found.perplexity, found.tokens, config.run.eval_tokens);
  if (!found.divergence) return;
  fmt::print("perplexity of the float model {:.4f}\n{}\n", *found.float_perplexity, divergence_text(*found.divergence));
}

}  // namespace

nlohmann::json run_eval(MpiCommunicator& world, const Config& config, const std::string& against) {
  check_settings_of_eval(world, config);
  const Model model = model_for_tokens(world, config, config.run.eval_tokens);
  run_on_root(world, [&] {
    if (const std::string warning = check_tokenizer(config, config.run.eval_tokens); !warning.empty()) {
      log_warning(warning);
    }
  });
  const std::optional<FloatModel> float_model = find_float_model(world, config, against, model);
  const RankContext ranks = divide_ranks(world, config, model, float_model);
  enter_phase("evaluate");
  Progress progress(display_stream(world));
  progress.begin_phase("evaluate", model.n_blocks() + (float_model ? float_model->model.n_blocks() : 0));
  const auto source = open_tensor_source(config.model.path);
  const auto float_source = float_model ? open_tensor_source(float_model->directory) : nullptr;
  std::optional<MeasuredModel> measured_float;
  if (float_model) measured_float.emplace(float_model->model, *float_source, float_model->directory);
  const Measures found = measure(ranks, {model, *source, config.model.path}, measured_float,
                                 {.tokens = config.run.eval_tokens,
                                  .logits = config.run.logits,
                                  .width = pass_width_of(config),
                                  .on_block = [&] { progress.advance(1); }});
  progress.end_phase();
  if (world.rank() == 0) print_measures(config, found);
  nlohmann::json result{
      {"perplexity", found.perplexity}, {"tokens", found.tokens}, {"expert_parts", ranks.expert_part.parts}};
  if (found.divergence) {
    result["float_perplexity"] = *found.float_perplexity;
    result["divergence"] = json_of(*found.divergence);
  }
  return result;
}

}  // namespace roundtable
