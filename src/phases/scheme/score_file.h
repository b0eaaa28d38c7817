// Scores on disk: a JSON file for each option, named by a digest of all that they depend on. Another budget, and one more
// option, use what is there.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "config/config.h"
#include "phases/scheme/score_pass.h"
#include "plan/plan.h"

namespace roundtable {

// What the scores of an option depend on: the model and the tokens by their content (`model`, `tokens` are digests), the
// graphs, the samples, the numbers' type, and the scheme of every layer.
nlohmann::json scores_print(const Config& config, const Plan& plan, const std::string& model, const std::string& tokens,
                            const ScoreSettings& settings);

std::string scores_path(const std::string& folder, const nlohmann::json& print);

void save_scores(const std::string& path, const std::string& option, const nlohmann::json& print,
                 const LayerScores& scores);

// Nothing where there is no such file. Throws Error (kBadInput) for a file with anything else in it.
std::optional<LayerScores> load_scores(const std::string& path, const nlohmann::json& print, const Model& model);

}  // namespace roundtable
