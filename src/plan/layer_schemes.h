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

// All formats of one run.
using Formats = std::vector<const CheckpointFormat*>;

// The scheme of the section itself, on a grid that all of `formats` can hold.
QuantScheme scheme_of(const QuantizationSection& section, const Formats& formats);

// The same with what an option of auto_scheme says; nothing where that keeps 16 bits.
std::optional<QuantScheme> scheme_of_option(const QuantizationSection& section, const SchemeOption& option,
                                            const Formats& formats);

// Precedence: 1. ignore_layers, 2. a weight_config rule with the exact layer name, 3. the last weight_config pattern
// that matches, 4. auto_scheme, whose layers are left open (LayerSchemes::open). lm_head is quantized if quant_lm_head asks for it or a rule has its exact name. A layer that is kept in
// 16 bits by default (KindTable::by_rule) is quantized if a rule matches it that matches no other layers than such ones.
// A layer that one of the formats cannot hold stays in 16 bits in all of them. Throws Error (kBadInput) for a rule that
// matches no layer that it can change, for a tied head that is to be quantized, and where no layer at all would be.
LayerSchemes resolve_schemes(const QuantizationSection& section, const Model& float_model, const Formats& formats);

// "all blocks", "block 3", "blocks 0, 4-7", of sorted blocks.
std::string blocks_text(const std::vector<std::int64_t>& blocks, std::int64_t n_blocks);

// "4 bits, sym, groups of 128"
std::string scheme_text(const QuantScheme& scheme);

// How a layer is quantized; nothing where it stays in 16 bits. `linear` has its full name; `block` is -1 and `place` 0
// for lm_head, else `place` is the layer's among the block's linears.
using SchemeAt =
    std::function<std::optional<QuantScheme>(const LinearSpec& linear, std::int64_t block, std::size_t place)>;

// CheckpointScheme::layers of a model: every linear layer of every block, those that are never quantized too, and lm_head where it is
// quantized.
std::vector<LayerScheme> checkpoint_layers(const Model& model, const SchemeAt& scheme_at);

}  // namespace roundtable
