// Phase scheme: the scores of every option of auto_scheme, and the choice that they lead to.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "phases/scheme/score_pass.h"
#include "plan/plan.h"
#include "run/run_context.h"

namespace roundtable {

// What was chosen, and how good it is.
struct ChosenScheme {
  SchemeChoice choice;
  // The scores of what was chosen, added up, in the mean of the batches: a bound to first order of how much the loss of a
  // token changes if all is rounded to nearest, and far above it. It compares budgets.
  double score = 0;
};

// Scores that are in `folder` are used, and others are made and kept there, option after option, so that a start which
// was killed loses one option at most. `plan` is one of auto_scheme, with or without a choice. Collective over the world.
// Throws AgreedError as score_layers(), and for a file of scores that cannot be used.
ChosenScheme choose_scheme(const RankContext& ranks, const Config& config, const Plan& plan, const std::string& folder,
                           Progress& progress);

// What the scores in `folder` lead to; nothing where some are missing. Not collective. Throws Error (kBadInput) for a
// file of scores that cannot be used.
std::optional<ChosenScheme> choose_by_scores_on_disk(const Config& config, const Plan& plan, const std::string& folder);

}  // namespace roundtable
