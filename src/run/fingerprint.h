// What a run is a run of: config, model, tokens, layout and version. A restart goes on only where all are the same.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "plan/plan.h"

namespace roundtable {

// Of a model directory: config.json, the tensors' names, and of each shard its size and pieces of its content.
std::string model_digest(const std::string& directory);

// An object of named parts, so that a difference can be named: each value is a digest or a plain setting.
nlohmann::json fingerprint(const Config& config, const Plan& plan);

// The names of the parts in which two fingerprints differ.
std::string fingerprint_difference(const nlohmann::json& old_print, const nlohmann::json& new_print);

// A digest of the whole, for the boundaries.
std::string fingerprint_digest(const nlohmann::json& print);

}  // namespace roundtable
