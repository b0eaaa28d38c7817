// Composing the card.
//
// Source of the keys between the dashes: huggingface_hub's model card metadata (base_model, license, tags).
#include "phases/model_card.h"

#include <fmt/ranges.h>

#include <filesystem>
#include <sstream>

#include "io/file.h"
#include "io/json_file.h"
#include "plan/layer_schemes.h"
#include "rundir/paths.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxCard = 16 << 20;

// The lines of the keys `license...` and `base_model` between the dashes that open the model's own card.
std::string kept_metadata(const std::string& directory) {
  const std::string path = directory + "/" + kModelCard;
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored) || fs::file_size(path, ignored) > kMaxCard) return "";
  std::istringstream card(read_text_file(path, kMaxCard));
  std::string line, kept;
  if (!std::getline(card, line) || line != "---") return "";
  while (std::getline(card, line) && line != "---") {
    // A value on its own line alone: lists and nested keys are left to the model's card.
    const bool wanted = line.starts_with("license") || line.starts_with("language:");
    if (wanted && line.find(": ") != std::string::npos && line.back() != '|') kept += line + "\n";
  }
  return kept;
}

// "org/name" of a folder of huggingface_hub's cache, .../models--org--name/snapshots/HASH; else nothing.
// Source: huggingface_hub, file_download.py, repo_folder_name(). The names of a repository hold no "--".
std::string hub_name(const std::string& directory) {
  std::error_code ignored;
  const fs::path real = fs::canonical(directory, ignored);
  const std::string prefix = "models--";
  std::string repository;  // the part above the present one
  for (const fs::path& part : real) {
    if (part == "snapshots" && repository.starts_with(prefix)) {
      std::string name = repository.substr(prefix.size());
      if (const std::size_t dashes = name.find("--"); dashes != std::string::npos) name.replace(dashes, 2, "/");
      return name;
    }
    repository = part.string();
  }
  return "";
}

}  // namespace

// The cache knows the repository. A name in config.json comes second: in a tuned model it is often the name of the one
// that it was tuned from.
std::string base_model(const std::string& directory) {
  if (const std::string name = hub_name(directory); !name.empty()) return name;
  const std::string name = JsonObject::load(directory + "/config.json").get_string_or("_name_or_path", "");
  const fs::path path(name.empty() || name.front() == '/' || name.front() == '.' ? directory : name);
  if (path.string() == name) return name;
  return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
}

namespace {

// "4 bits, sym, groups of 128", or what auto_scheme has chosen.
std::string weights_text(const Config& config, const Plan& plan) {
  if (!plan.mixed) return scheme_text(plan.common);
  const MixedSchemes figures = figures_of(*plan.mixed, config.quantization, plan.chosen);
  std::vector<std::string> counts;
  for (const auto& [word, layers] : figures.layers) counts.push_back(fmt::format("{} in {} layers", word, layers));
  return fmt::format("mixed, {:.3f} bits in the mean with scales and zero points: {}; chosen by the loss that each layer's "
                     "rounding costs",
                     figures.mean_bits, fmt::join(counts, ", "));
}

std::string settings_rows(const Config& config, const Plan& plan) {
  const TuningSection& t = config.tuning;
  std::string rows = fmt::format("| weights | {} |\n", weights_text(config, plan));
  for (const WeightRule& rule : config.quantization.weight_config) {
    rows += fmt::format("| layers `{}` | settings of their own |\n", rule.layers);
  }
  if (plan.head)
    rows += fmt::format("| {} | {}, rounded to nearest |\n", plan.model.head_layer(), scheme_text(*plan.head));
  for (const std::string& reason : plan.float_reasons) rows += fmt::format("| 16 bits | {} |\n", reason);
  if (t.init_scale == InitScale::kSearch) {
    rows += "| scales | from a search, weighed by the layers' inputs";
    if (t.min_expert_tokens > 0 && plan.quantizes_experts()) {
      rows += fmt::format(", with at least {} tokens for each expert", t.min_expert_tokens);
    }
    rows += " |\n";
  }
  if (!plan.world.devices.kinds.empty()) rows += fmt::format("| devices | {} |\n", plan.world.devices.kinds);
  if (t.iters == 0) return rows + "| rounding | to nearest |\n";
  rows += fmt::format("| tuning | {}, {} iterations a block, {} samples a step |\n", word_of(t.optimizer), t.iters,
                      plan.batch);
  rows += fmt::format("| calibration | {} samples of {} tokens |\n", config.calibration.n_samples,
                      config.calibration.seqlen);
  return rows + fmt::format("| stages | {} of up to {} blocks |\n", plan.stages.size(), plan.stages.front().size());
}

}  // namespace

void write_model_card(const std::string& directory, const Config& config, const Plan& plan,
                      const std::optional<record::Evaluation>& evaluation) {
  const std::string base = base_model(config.model.path);
  std::string text =
      fmt::format("---\nbase_model: {}\nbase_model_relation: quantized\n{}tags:\n- quantized\n- signround\n---\n\n",
                  base, kept_metadata(config.model.path));
  text += fmt::format("# {}, quantized\n\n", base);
  text +=
      "The linear layers of this model are quantized with Roundtable: rounding tuned by signed gradient descent\n"
      "(SignRound, [arXiv 2309.05516](https://arxiv.org/abs/2309.05516)). What is not named is as the base model has "
      "it.\n\n";
  text += "| | |\n|---|---|\n" + settings_rows(config, plan);
  if (evaluation) {
    const auto& [digest, perplexity, divergence] = *evaluation;
    text += fmt::format("\nPerplexity on {} held-out tokens: {:.3f} before, {:.3f} after.\n", perplexity.tokens,
                        perplexity.before, perplexity.after);
    text += fmt::format(
        "KL divergence of the base model's distribution of the next token to this one's: {:.4f} in the mean, {:.4f} at\n"
        "the 99th percentile. For {:.1f} % of the tokens both find the same one most likely.\n",
        divergence.mean, divergence.p99, 100 * divergence.same_top);
  }
  write_file_atomically(directory + "/" + kModelCard, [&](OutputFile& file) { file.write(text.data(), text.size()); });
}

}  // namespace roundtable
