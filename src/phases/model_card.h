// README.md of a checkpoint: what it is made from, how, and what that cost.
#pragma once

#include <optional>
#include <string>

#include "config/config.h"
#include "plan/plan.h"
#include "rundir/records.h"

namespace roundtable {

// The name of the model in `directory`: its repository's, where the folder is one of huggingface_hub's cache, else the
// one in config.json, else the folder's. Never a path.
std::string base_model(const std::string& directory);

// Writes it atomically. `evaluation` is empty where nothing was measured. The licence and the base model's name are taken
// from the model's own card and config.json. Says nothing of time and place, so that the same run writes the same
// bytes.
void write_model_card(const std::string& directory, const Config& config, const Plan& plan,
                      const std::optional<record::Evaluation>& evaluation);

}  // namespace roundtable
