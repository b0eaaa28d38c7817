// How each linear layer of a model is quantized: the quantization section, the rules for single layers, and what the
// output's layout can hold.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "config/config.h"
#include "export/format.h"
#include "graph/model.h"
#include "plan/rules/layer_rules.h"
#include "tune/block_tuner.h"

namespace roundtable {

struct LayerSchemes {
  Model model;                             // whose linears these are, with those that only a rule quantizes
  std::vector<BlockSchemes> blocks;        // [block], each in the order of Model::linears()
  std::optional<QuantScheme> head;         // of lm_head; empty where it stays in 16 bits
  std::set<std::string> by_rule;           // names of quantized layers that are kept in 16 bits by default
  std::set<std::pair<std::int64_t, std::size_t>> kept;  // block and place of layers that stay in 16 bits by default
  // [block][layer]: the options of auto_scheme that the formats can hold of a layer that no rule decides on. Its scheme
  // is empty until one is chosen. Empty for other layers.
  std::vector<std::vector<std::vector<std::size_t>>> open;
  std::vector<std::string> float_reasons;  // "mlp.down_proj stays in 16 bits: ...", "... (blocks 0, 4-7) ..."
};

// By LayerRules; with auto_scheme, layers that no rule decides on are left open. A layer that is kept in 16 bits by default
// (KindTable::by_rule) is quantized if a rule matches it that matches no other layers than such ones. Throws Error
// (kBadInput) as LayerRules does, and where no layer at all would be quantized.
LayerSchemes resolve_schemes(const QuantizationSection& section, const Model& float_model, const Formats& formats);

// How a layer is quantized; nothing where it stays in 16 bits. `linear` has its full name; `block` is -1 and `place` 0
// for lm_head, else `place` is the layer's among the block's linears.
using SchemeAt =
    std::function<std::optional<QuantScheme>(const LinearSpec& linear, std::int64_t block, std::size_t place)>;

// CheckpointScheme::layers of a model: every linear layer of every block, those that are never quantized too, and lm_head where it is
// quantized.
std::vector<LayerScheme> checkpoint_layers(const Model& model, const SchemeAt& scheme_at);

}  // namespace roundtable
