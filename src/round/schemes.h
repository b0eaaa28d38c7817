// How each layer of a model that is known by names alone is quantized.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"
#include "export/format.h"
#include "plan/rules/layer_rules.h"
#include "round/layers.h"

namespace roundtable {

struct RoundedLayers {
  CheckpointScheme scheme;
  std::vector<std::string> float_reasons;  // "mlp.down_proj stays in 16 bits: ...", as of a plan
};

// By LayerRules: the same as quantize does with the same names. Throws Error (kBadInput) as LayerRules does, and where
// no layer at all would be quantized.
RoundedLayers choose_schemes(const QuantizationSection& section, const NamedModel& model, const Formats& formats);

}  // namespace roundtable
