// Settings of single layers: which layers a rule is for, and which keys of the quantization section it changes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/pattern.h"
#include "config/choices.h"
#include "config/constraint.h"

namespace roundtable {

struct YamlNode;

// One entry of quantization.weight_config (auto-round's layer_config). A key that it does not give is as in the
// section.
struct WeightRule {
  std::string layers;  // a layer's full name, a part of names, or a regular expression: see LayerPattern
  std::optional<std::int64_t> bits;
  std::optional<std::int64_t> group_size;
  std::optional<Symmetry> scheme;
  std::optional<RuleType> data_type;

  bool keeps_float() const { return bits == 16; }
  bool operator==(const WeightRule&) const = default;
};

// In the order in which they are written. Of the rules that match a layer, the one with exactly its name decides; if
// there is none, the last one does.
using WeightRules = std::vector<WeightRule>;

// Reads "NAME: {bits: 8, ...}" entries. Throws Error (kBadInput), which begins with the line, for an unknown key or
// value.
WeightRules read_weight_rules(const YamlNode& node, const std::string& file, const std::string& place);

// For `--help`. The reader checks every rule itself and says what is wrong.
inline Constraint<WeightRules> layer_rules() {
  return {fmt::format("{{NAME or regular expression: {{bits: 2, 3, 4, 8 or 16, group_size:, scheme:, data_type: {}}}}}",
                      choice<RuleType>().values),
          [](const WeightRules&) { return true; }};
}

// As a YAML flow mapping that read_weight_rules takes.
std::string written(const WeightRules& rules);

// The layers that a name or regular expression stands for, as auto-round 0.16.1 reads it (utils/common.py,
// to_standard_regex): it may match anywhere in the name, and a dot without a quantifier behind it is a plain dot. A
// plain name that ends in a digit ends there: "layers.1" does not match "layers.10".
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
