// The `quantization_config` of auto-round's own formats, which differ in packing_format alone. Inside this folder.
//
// Source: auto-round 0.16.1, export/export_to_autoround/export.py (written), inference/convert_model.py and
// inference/utils.py, _expand_regex_config (read).
#pragma once

#include "export/format.h"

namespace roundtable {

// What differs from the common scheme in a layer is written under `extra_config`.
nlohmann::json auto_round_config(std::string_view packing_format, const CheckpointScheme& checkpoint,
                                 const ModelConfig& model);

// Throws Error (kBadInput), opened by `place`, where a value is senseless. The keys of `extra_config` are layer names, or
// else regular expressions.
SchemeOf read_auto_round_config(const nlohmann::json& config, const std::string& place);

bool is_auto_round_config(const nlohmann::json& config, std::string_view packing_format);

}  // namespace roundtable
