// A graph folder from disk: model.json and constants.safetensors, with everything checked that FORMAT.md says.
#pragma once

#include <torch/types.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "graph/format/manifest.h"
#include "io/safetensors.h"

namespace roundtable {

using TensorsByName = std::map<std::string, torch::Tensor>;

// Reads FOLDER/model.json. Throws bad input with one line, "FOLDER/model.json: kinds[1].nodes[17] (aten::add.Tensor):
// problem; fix". Nothing of the file can make the reader use memory out of proportion to the file.
GraphManifest read_manifest(const std::string& folder);
// The same of what the file `path` holds.
GraphManifest parse_manifest(nlohmann::json root, const std::string& path);

// Reads FOLDER/constants.safetensors into host memory; empty if no part of `manifest` has a constant. Complex ones are
// complex. Throws bad input for a constant that is missing, that no part takes, or that has a type of its own.
TensorsByName read_constants(const std::string& folder, const GraphManifest& manifest);

// One tensor of a file, in host memory; with `is_complex` from pairs of F32. Throws bad input for dtypes that no graph
// has.
torch::Tensor read_graph_tensor(const SafetensorsFile& file, const TensorInfo& info, bool is_complex = false);

}  // namespace roundtable
