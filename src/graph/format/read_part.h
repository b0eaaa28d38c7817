// A part of model.json: its structs from JSON, each key checked by itself.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "graph/format/manifest.h"

namespace roundtable {

// Uses `json` up. Throws bad input for keys that are unknown or missing, values of another type, and sizes beyond the
// limits. Whether the parts of the graph fit each other is for checks.h.
GraphPart read_part(nlohmann::json json, PartRole role, const std::string& place);

}  // namespace roundtable
