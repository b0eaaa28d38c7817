// Settings of single layers: which layers a rule means, and what it changes of the quantization section.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/pattern.h"
#include "config/constraint.h"

namespace roundtable {

struct YamlNode;

// One entry of quantization.weight_config (auto-round's layer_config). What it does not say is as in the section.
struct WeightRule {
  std::string layers;  // a layer's full name, a part of names, or a regular expression: see LayerPattern
  std::optional<std::int64_t> bits;
  std::optional<std::int64_t> group_size;
  std::optional<std::string> scheme;
  std::optional<std::string> data_type;

  bool keeps_float() const { return bits == 16; }
  bool operator==(const WeightRule&) const = default;
};

// In the order in which they are written. Of the rules that match a layer the one with its very name decides, else the
// last.
using WeightRules = std::vector<WeightRule>;

// Reads "NAME: {bits: 8, ...}" entries. Throws Error (kBadInput), opened by the line, for an unknown key or value.
WeightRules read_weight_rules(const YamlNode& node, const std::string& file, const std::string& place);

// What the reader takes; its own words say what is wrong.
inline Constraint<WeightRules> layer_rules() {
  return {"{NAME or regular expression: {bits: 2, 3, 4, 8 or 16, group_size:, scheme:, data_type: int or float}}",
          [](const WeightRules&) { return true; }};
}

// As a YAML flow mapping that read_weight_rules takes.
std::string written(const WeightRules& rules);

// Which layers a name or regular expression means, as auto-round 0.16.1 reads it (utils/common.py, to_standard_regex):
// it may match anywhere in the name, and a dot that no quantifier follows is a dot. A plain name that ends in a digit
// ends there: "layers.1" is no part of "layers.10".
class LayerPattern {
 public:
  // Throws Error (kBadInput), opened by `place`, where `text` is no Pattern.
  LayerPattern(const std::string& text, const std::string& place);

  bool is_exactly(const std::string& layer) const { return layer == text_; }
  bool matches(const std::string& layer) const;

 private:
  std::string text_;
  std::optional<Pattern> pattern_;
};

}  // namespace roundtable
