// Dividing by what ranks and experts have in common, and comparing two model directories.
#include "commands/checks/eval_checks.h"

#include <fmt/format.h>

#include <numeric>

#include "base/error.h"
#include "export/quantized_checkpoint.h"
#include "plan/checks.h"
#include "plan/layout.h"

namespace roundtable {
namespace {

constexpr const char* kAgainst = "--against";

}  // namespace

int choose_eval_parts(const Config& config, const std::vector<const Model*>& models, const World& world) {
  const bool asked = config.parallel.experts == Experts::kDivided;
  if (config.parallel.experts == Experts::kReplicated) return 1;
  std::int64_t experts = 0;
  std::string obstacle;
  for (const Model* model : models) {
    experts = std::gcd(experts, experts_to_divide(*model));
    // Nothing is written here, so it does not matter whether a stack stays whole.
    if (obstacle.empty()) obstacle = obstacle_to_dividing(*model, /*stacks_apart=*/true);
  }
  if (experts == 0) return 1;
  if (!obstacle.empty()) {
    if (!asked) return 1;
    throw bad_input("parallel.experts", fmt::format("'divided' is not possible: {}", obstacle),
                    "leave it at auto, or set it to replicated");
  }
  const std::int64_t shards = config.parallel.shards;
  if (shards > 0 && world.ranks % shards == 0 && experts % shards == 0) return static_cast<int>(shards);
  const int parts = static_cast<int>(std::gcd(experts, static_cast<std::int64_t>(world.ranks)));
  if (!asked) return parts;
  if (shards > 0) {
    throw bad_input("parallel.shards",
                    fmt::format("{} does not divide both the {} ranks and the {} experts of a block, which "
                                "parallel.experts 'divided' needs",
                                shards, world.ranks, experts),
                    fmt::format("set it to {}, or to 0 to leave the choice to eval", parts));
  }
  if (parts == 1 && world.ranks > 1) {
    throw bad_input("parallel.experts",
                    fmt::format("'divided' is not possible: the {} ranks and the {} experts of a block have no divisor "
                                "in common",
                                world.ranks, experts),
                    "start a number of ranks that divides the experts, or leave it at auto");
  }
  return parts;
}

void check_is_float(const std::string& float_dir) {
  if (!is_quantized_by_us(float_dir)) return;
  throw bad_input(kAgainst, fmt::format("{} is a quantized model", float_dir),
                  "give the directory of the float model that it was made from");
}

std::string check_same_tokens(const Config& config, const Model& model, const std::string& float_dir,
                              const Model& float_model) {
  const std::string& directory = config.model.path;
  if (model.vocab_size() != float_model.vocab_size()) {
    throw bad_input(kAgainst,
                    fmt::format("{} has a vocabulary of {} tokens, and {} has one of {}", float_dir,
                                float_model.vocab_size(), directory, model.vocab_size()),
                    "give the float model that it was made from");
  }
  const std::string ours = tokenizer_digest(directory), theirs = tokenizer_digest(float_dir);
  if (ours.empty() || theirs.empty() || ours == theirs) return "";
  const std::string problem =
      fmt::format("{}/tokenizer.json is another tokenizer than {}/tokenizer.json", float_dir, directory);
  if (!config.calibration.check_tokenizer) return fmt::format("{}: {}", kAgainst, problem);
  throw bad_input(kAgainst, problem,
                  "give the float model that it was made from, or, if both give the same ids, set "
                  "calibration.check_tokenizer=false");
}

}  // namespace roundtable
