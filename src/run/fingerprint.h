// The fingerprint of a run: everything that its result depends on. A run is resumed only if all of it is the same.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "plan/plan.h"

namespace roundtable {

// Of a model directory: config.json, the tensors' names, and of each file of weights its size and pieces of its
// content. Two models with the same digest can still differ between these pieces.
std::string model_digest(const std::string& directory);

// An object of named parts, so that a difference can be named: the two objects below, a version and the number of
// stages.
nlohmann::json fingerprint(const Config& config, const Plan& plan);

// Every key of the config that changes the result by its value (kChangesResult), with that value. Reads no file.
nlohmann::json settings_fingerprint(const Config& config);

// Every key of the config that counts by its content (kByContent), with a digest of what its path leads to; empty for
// no path. Throws Error (kBadInput) if something there cannot be read.
nlohmann::json content_fingerprint(const Config& config);

// The names of the parts in which two fingerprints differ.
std::string fingerprint_difference(const nlohmann::json& old_print, const nlohmann::json& new_print);

// A digest of the whole, for the boundaries.
std::string fingerprint_digest(const nlohmann::json& print);

}  // namespace roundtable
