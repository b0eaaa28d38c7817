// quantization.auto_scheme before any score is known: which layers share a choice, what each option costs them, and what
// the budget leaves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/config.h"
#include "plan/layer_schemes.h"
#include "rundir/run_summary.h"

namespace roundtable {

struct LayerPlace {
  std::int64_t block = 0;
  std::size_t place = 0;  // among the block's linears
};

// An option that all of some layers can have.
struct Candidate {
  std::size_t option = 0;  // of auto_scheme.options
  std::int64_t bits = 0;   // that these layers take with it
};

// Layers that engines make one of, and that therefore get the same option: see fused_places().
struct TiedLayers {
  std::vector<LayerPlace> layers;
  std::vector<Candidate> candidates;  // at least one
};

// Layers that a rule names, and those that stay in 16 bits, are not chosen. They count all the same, as in auto-round
// (auto_scheme/utils.py, compute_avg_bits_for_scheme): all linear layers of the blocks that are quantized if nothing is
// said of them, and lm_head where it is quantized.
struct MixedBits {
  std::vector<TiedLayers> ties;
  std::int64_t weights = 0;     // of all layers that count
  std::int64_t fixed_bits = 0;  // of layers that are not chosen

  std::int64_t budget(double avg_bits) const;  // for the layers that are chosen
  double mean(std::int64_t chosen_bits) const;  // bits per weight of all
};

// The bits that a layer takes: its weights, and for each group 16 for the scale (8 for floats of 4 bits) and as many for
// the zero point as a weight has, with symmetric integers too. Source: auto-round 0.16.1, auto_scheme/utils.py,
// compute_layer_bits.
std::int64_t storage_bits(const LinearSpec& linear, const std::optional<QuantScheme>& scheme, bool ignore_scale_zp_bits);

// What auto_scheme of `section` has to choose. Throws Error (kBadInput) with the key and the fix for an option that one
// of the formats cannot hold, or that is of another data_type than the section, and for a mean that the options cannot
// reach.
MixedBits mixed_bits_of(const QuantizationSection& section, const LayerSchemes& schemes, const Formats& formats);

// The word of an option for each of `ties`, by the full name of its first layer.
using SchemeChoice = std::map<std::string, std::string>;

// What scores decide; `loss(tie, option)` is the sum over the tie's layers. In the order of the ties; a place among
// candidates.
std::vector<std::size_t> choose_options(const MixedBits& mixed, double avg_bits,
                                        const std::function<double(const TiedLayers& tie, std::size_t option)>& loss);

// A choice by the number of weights alone, as if each bit that a weight loses doubled its error. It stands for the real
// one until that is known.
std::vector<std::size_t> guess_options(const MixedBits& mixed, const QuantizationSection& section, const Model& model);

// To words and back. The latter throws Error (kBadInput) for a choice that is not one of these ties and options.
SchemeChoice in_words(const MixedBits& mixed, const QuantizationSection& section, const Model& model,
                      const std::vector<std::size_t>& chosen);
std::vector<std::size_t> from_words(const MixedBits& mixed, const QuantizationSection& section, const Model& model,
                                    const SchemeChoice& choice);

// Gives the layers of `schemes` what was chosen.
void apply_choice(const MixedBits& mixed, const QuantizationSection& section, const Formats& formats,
                  const std::vector<std::size_t>& chosen, LayerSchemes& schemes);

// The option that most weights have, of those that quantize; nothing where all that was chosen is 16 bits.
std::optional<std::size_t> most_frequent(const MixedBits& mixed, const QuantizationSection& section, const Model& model,
                                         const std::vector<std::size_t>& chosen);

// The bits of a choice, and how many layers each option got.
MixedSchemes figures_of(const MixedBits& mixed, const QuantizationSection& section,
                        const std::vector<std::size_t>& chosen);

}  // namespace roundtable
