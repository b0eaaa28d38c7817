// Writing and reading score files.
#include "phases/scheme/score_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "io/json_file.h"
#include "run/fingerprint.h"
#include "rundir/paths.h"

namespace roundtable {
namespace {

nlohmann::json json_of_scheme(const std::optional<QuantScheme>& scheme) {
  if (!scheme) return nullptr;
  return {scheme->bits,       scheme->group_size,     scheme->symmetric,      scheme->full_range,
          scheme->fp16_scale, scheme->min_zero_point, word_of(scheme->type)};
}

[[noreturn]] void refuse(const std::string& path) {
  throw bad_input(path, "is no file of scores of this model", "remove it, and the scores are made again");
}

}  // namespace

nlohmann::json scores_print(const Config& config, const Plan& plan, const std::string& model, const std::string& tokens,
                            const ScoreSettings& settings) {
  nlohmann::json schemes = nlohmann::json::array();
  for (const BlockSchemes& block : settings.schemes) {
    nlohmann::json& list = schemes.emplace_back(nlohmann::json::array());
    for (const auto& scheme : block) list.push_back(json_of_scheme(scheme));
  }
  return {{"version", 1},  // to be raised if the same inputs give other scores than before
          {"model", model},
          {"graphs", plan.model.digest()},
          {"tokens", tokens},
          {"nsamples", settings.samples},
          {"seqlen", config.calibration.seqlen},
          {"batch_size", settings.batch_size},
          {"amp", config.tuning.amp},
          {"schemes", fingerprint_digest(schemes)}};
}

std::string scores_path(const std::string& folder, const nlohmann::json& print) {
  return scores_in(folder, fingerprint_digest(print));
}

void save_scores(const std::string& path, const std::string& option, const nlohmann::json& print,
                 const LayerScores& scores) {
  save_json(path, {{"option", option},
                   {"of", print},
                   {"loss", scores.loss},
                   {"batches", scores.batches},
                   {"scores", scores.of_block}});
}

std::optional<LayerScores> load_scores(const std::string& path, const nlohmann::json& print, const Model& model) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  LayerScores scores;
  try {
    const nlohmann::json json = load_json(path);
    if (json.at("of") != print) refuse(path);
    json.at("loss").get_to(scores.loss);
    json.at("batches").get_to(scores.batches);
    json.at("scores").get_to(scores.of_block);
  } catch (const nlohmann::json::exception&) {
    refuse(path);
  }
  bool fits = std::ssize(scores.of_block) == model.n_blocks() && scores.batches > 0;
  for (std::int64_t block = 0; fits && block < model.n_blocks(); ++block) {
    const std::vector<double>& row = scores.of_block[static_cast<std::size_t>(block)];
    fits = row.size() == model.linears(block).size() &&
           std::all_of(row.begin(), row.end(), [](double score) { return std::isfinite(score) && score >= 0; });
  }
  if (!fits) refuse(path);
  return scores;
}

}  // namespace roundtable
