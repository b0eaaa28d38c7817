// What a config says of single layers (weight_config, ignore_layers), and the scheme that follows for each. It knows
// layers by their names alone: whether graphs or the tensors of a checkpoint have named them does not matter.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "export/format.h"

namespace roundtable {

// All formats of one run.
using Formats = std::vector<const CheckpointFormat*>;

// The scheme of the section itself, on a grid that all of `formats` can hold.
QuantScheme scheme_of(const QuantizationSection& section, const Formats& formats);

// The same with what an option of auto_scheme says; nothing where that keeps 16 bits.
std::optional<QuantScheme> scheme_of_option(const QuantizationSection& section, const SchemeOption& option,
                                            const Formats& formats);

// "4 bits, sym, groups of 128"
std::string scheme_text(const QuantScheme& scheme);

// The layers of the last block in words: "model.layers.N.NAME with N from 0 to 11 and NAME of self_attn.q_proj, ...".
// `first_block` is "model.layers.0"; `names` are those below a block's.
std::string layers_text(const std::string& first_block, std::int64_t n_blocks, std::vector<std::string> names);

// Precedence: 1. ignore_layers, 2. a weight_config rule with the exact layer name, 3. the last weight_config pattern
// that matches, 4. auto_scheme, which leaves the layer open. Names are full ones. All errors are Errors (kBadInput) that begin with the key.
class LayerRules {
 public:
  // `head` is the name of the head's layer. Throws for a rule that is no expression, and for a data_type that leaves no
  // choice in what the section says otherwise.
  LayerRules(const QuantizationSection& section, const Formats& formats, const std::string& head);

  const QuantScheme& common() const { return common_; }

  // Call this for each layer that is quantized unless the config says otherwise, before the others are asked for.
  void see_default(const std::string& layer);
  // Whether a rule that matches no such layer asks for this one, which is kept in 16 bits by default.
  bool asks_for(const std::string& kept) const;

  struct Choice {
    std::optional<QuantScheme> scheme;
    std::string reason;  // why there is none; empty where the config does not name the head
    // The places of auto_scheme's options that all formats can hold of a layer that is left open; its scheme is empty
    // until one of them is chosen.
    std::vector<std::size_t> open{};
  };
  // A layer that one of the formats cannot hold stays in 16 bits in all of them. Throws for a rule that its data_type
  // leaves no room for.
  Choice choose(const LinearSpec& layer);
  // The head is quantized if quant_lm_head asks for it or a rule has its exact name, and never left open. Throws where it
  // is then tied (`layer` is empty).
  Choice choose_head(const std::optional<LinearSpec>& layer);

  // The first layer, if any, that a pattern matches and that is never quantized.
  using FindFixed = std::function<std::optional<std::string>(const LayerPattern& pattern)>;
  // Throws for a rule that no layer was chosen by. `layers` says in words which there are.
  void refuse_idle(const FindFixed& find_fixed, const std::string& layers) const;

 private:
  // What a user wrote for some layers, and how many it was found to mean.
  struct Claim {
    std::string place;
    LayerPattern pattern;
    WeightRule rule;
    std::int64_t layers = 0;
    bool of_default = false;  // it matches a layer that is quantized by default
  };

  static const Claim* deciding(std::vector<Claim>& claims, const std::string& layer);
  void refuse_idle(const std::vector<Claim>& claims, bool keep_float, const FindFixed& find_fixed,
                   const std::string& layers) const;
  std::optional<std::string> obstacle_of(const LinearSpec& linear, const QuantScheme& scheme) const;
  // Nothing where no rule, but the section decides.
  std::optional<Choice> choose_by_rules(const LinearSpec& layer);
  Choice choose_common(const LinearSpec& layer) const;
  Choice leave_open(const LinearSpec& layer) const;

  Formats formats_;
  QuantScheme common_;
  std::vector<std::optional<QuantScheme>> options_;  // of auto_scheme; none: it is off
  std::string head_;
  bool quant_lm_head_;
  std::vector<Claim> rules_;
  std::vector<Claim> ignored_;
};

}  // namespace roundtable
