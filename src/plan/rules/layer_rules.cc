// Claims, and which of them decides.
#include "plan/rules/layer_rules.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "export/expert_layers.h"

namespace roundtable {
namespace {

// What is wrong with a pattern may be its length: the error shows only its beginning.
LayerPattern pattern_of(const std::string& text, const char* key) {
  return LayerPattern(text, fmt::format("{} {}", key, shown(text)));
}

QuantScheme changed(QuantScheme scheme, const WeightRule& rule) {
  if (rule.bits) scheme.bits = static_cast<int>(*rule.bits);
  if (rule.group_size) scheme.group_size = *rule.group_size;
  if (rule.scheme) scheme.symmetric = *rule.scheme == Symmetry::kSym;
  return scheme;
}

// Floats of 4 bits leave no choice in what follows from their layout.
void check_float4(const std::string& place, const QuantScheme& scheme) {
  if (scheme.type == WeightType::kInt) return;
  const std::int64_t group_size = group_size_of(scheme.type);
  if (scheme.bits == 4 && scheme.group_size == group_size && scheme.symmetric) return;
  const std::string_view name = word_of(scheme.type);
  throw bad_input(place, fmt::format("weights of data_type {} are sym, of 4 bits, in groups of {}", name, group_size),
                  fmt::format("set bits: 4, group_size: {} and scheme: sym", group_size));
}

}  // namespace

QuantScheme scheme_of(const QuantizationSection& section, const Formats& formats) {
  QuantScheme scheme;
  scheme.type = section.data_type;
  scheme.bits = static_cast<int>(section.bits);
  scheme.group_size = section.group_size;
  scheme.symmetric = section.scheme == Symmetry::kSym;
  scheme.full_range = section.enable_full_range;
  scheme.fp16_scale = section.scale_dtype == ScaleDtype::kFp16;
  for (const CheckpointFormat* format : formats) {
    scheme.min_zero_point = std::max(scheme.min_zero_point, format->min_zero_point());
  }
  return scheme;
}

std::optional<QuantScheme> scheme_of_option(const QuantizationSection& section, const SchemeOption& option,
                                            const Formats& formats) {
  if (option.keeps_float()) return std::nullopt;
  QuantScheme scheme = scheme_of(section, formats);
  scheme.bits = static_cast<int>(option.bits);
  scheme.group_size = option.group_size;
  scheme.symmetric = option.scheme == Symmetry::kSym;
  scheme.type = option.data_type;
  return scheme;
}

std::string scheme_text(const QuantScheme& scheme) {
  if (scheme.type != WeightType::kInt) {
    return fmt::format("floats of 4 bits ({}), groups of {}", word_of(scheme.type), scheme.group_size);
  }
  return fmt::format("{} bits, {}, {}", scheme.bits, scheme.symmetric ? "sym" : "asym",
                     scheme.group_size < 0 ? "one group a channel" : fmt::format("groups of {}", scheme.group_size));
}

std::string layers_text(const std::string& first_block, std::int64_t n_blocks, std::vector<std::string> names) {
  constexpr std::size_t kShown = 8;
  const bool cut = names.size() > kShown;
  if (cut) names.resize(kShown);
  return fmt::format("{}.N.NAME with N from 0 to {} and NAME of {}{}", first_block.substr(0, first_block.rfind('.')),
                     n_blocks - 1, fmt::join(names, ", "), cut ? ", ..." : "");
}

LayerRules::LayerRules(const QuantizationSection& section, const Formats& formats, const std::string& head)
    : formats_(formats), common_(scheme_of(section, formats)), head_(head), quant_lm_head_(section.quant_lm_head) {
  check_float4("quantization.data_type", common_);
  for (const SchemeOption& option : section.auto_scheme.options) {
    options_.push_back(scheme_of_option(section, option, formats));
  }
  for (const WeightRule& rule : section.weight_config) {
    rules_.push_back({fmt::format("quantization.weight_config '{}'", rule.layers),
                      pattern_of(rule.layers, "quantization.weight_config"), rule});
  }
  for (const std::string& name : section.ignore_layers) {
    ignored_.push_back({fmt::format("quantization.ignore_layers '{}'", name),
                        pattern_of(name, "quantization.ignore_layers"), {}});
  }
}

void LayerRules::see_default(const std::string& layer) {
  for (Claim& rule : rules_) rule.of_default = rule.of_default || rule.pattern.matches(layer);
}

bool LayerRules::asks_for(const std::string& kept) const {
  return std::any_of(rules_.begin(), rules_.end(), [&](const Claim& rule) {
    return !rule.of_default && !rule.rule.keeps_float() && !rule.pattern.is_exactly(head_) &&
           rule.pattern.matches(kept);
  });
}

// The claim that decides on `layer`, or null. Counts the layer for each claim that matches.
const LayerRules::Claim* LayerRules::deciding(std::vector<Claim>& claims, const std::string& layer) {
  const Claim* found = nullptr;
  for (Claim& claim : claims) {
    if (!claim.pattern.matches(layer)) continue;
    ++claim.layers;
    if (found == nullptr || !found->pattern.is_exactly(layer)) found = &claim;
  }
  return found;
}

// Why one of the formats cannot hold a layer.
std::optional<std::string> LayerRules::obstacle_of(const LinearSpec& linear, const QuantScheme& scheme) const {
  for (const CheckpointFormat* format : formats_) {
    if (auto reason = obstacle_of_parts(*format, linear, scheme)) {
      return formats_.size() == 1 ? *reason : fmt::format("{} ({})", *reason, format->name());
    }
  }
  return std::nullopt;
}

std::optional<LayerRules::Choice> LayerRules::choose_by_rules(const LinearSpec& layer) {
  const Claim* rule = deciding(rules_, layer.name);
  const Claim* skip = deciding(ignored_, layer.name);
  const QuantScheme scheme = rule ? changed(common_, rule->rule) : common_;
  if (rule && !rule->rule.keeps_float()) check_float4(rule->place, scheme);
  if (skip) return Choice{std::nullopt, skip->place};
  if (!rule) return std::nullopt;
  if (rule->rule.keeps_float()) return Choice{std::nullopt, rule->place};
  if (auto reason = obstacle_of(layer, scheme)) return Choice{std::nullopt, *reason};
  return Choice{scheme, ""};
}

LayerRules::Choice LayerRules::choose_common(const LinearSpec& layer) const {
  if (auto reason = obstacle_of(layer, common_)) return {std::nullopt, *reason};
  return {common_, ""};
}

// A layer that can only stay in 16 bits has the reason why it cannot have the first option.
LayerRules::Choice LayerRules::leave_open(const LinearSpec& layer) const {
  Choice choice;
  bool quantized = false;
  for (std::size_t i = 0; i < options_.size(); ++i) {
    const auto reason = options_[i] ? obstacle_of(layer, *options_[i]) : std::nullopt;
    if (!reason) {
      choice.open.push_back(i);
      quantized = quantized || options_[i];
    } else if (choice.reason.empty()) {
      choice.reason = *reason;
    }
  }
  if (quantized) return {std::nullopt, "", std::move(choice.open)};
  return {std::nullopt, std::move(choice.reason)};
}

LayerRules::Choice LayerRules::choose(const LinearSpec& layer) {
  if (const auto choice = choose_by_rules(layer)) return *choice;
  return options_.empty() ? choose_common(layer) : leave_open(layer);
}

// To keep the head as it is may be said of every model.
LayerRules::Choice LayerRules::choose_head(const std::optional<LinearSpec>& layer) {
  const bool wanted = quant_lm_head_ || std::any_of(rules_.begin(), rules_.end(), [&](const Claim& claim) {
                        return claim.pattern.is_exactly(head_) && !claim.rule.keeps_float();
                      });
  if (!wanted) {
    for (Claim& claim : rules_) claim.layers += claim.rule.keeps_float() && claim.pattern.matches(head_);
    for (Claim& claim : ignored_) claim.layers += claim.pattern.matches(head_);
    return {};
  }
  if (layer) {
    const auto choice = choose_by_rules(*layer);
    return choice ? *choice : choose_common(*layer);
  }
  const Claim* rule = deciding(rules_, head_);
  const Claim* skip = deciding(ignored_, head_);
  if (skip || (rule && rule->rule.keeps_float())) return {std::nullopt, skip ? skip->place : rule->place};
  throw bad_input(rule ? rule->place : "quantization.quant_lm_head",
                  "this model's head is its embedding table (tie_word_embeddings), which stays in 16 bits",
                  "leave the head out");
}

void LayerRules::refuse_idle(const FindFixed& find_fixed, const std::string& layers) const {
  refuse_idle(rules_, /*keep_float=*/false, find_fixed, layers);
  refuse_idle(ignored_, /*keep_float=*/true, find_fixed, layers);
}

// To keep a layer in 16 bits that stays so anyway may be said of every model.
void LayerRules::refuse_idle(const std::vector<Claim>& claims, bool keep_float, const FindFixed& find_fixed,
                             const std::string& layers) const {
  for (const Claim& claim : claims) {
    if (claim.layers > 0) continue;
    const auto fixed = find_fixed(claim.pattern);
    if (!fixed) throw bad_input(claim.place, "matches no layer that is quantized", "layers: " + layers);
    if (keep_float || claim.rule.keeps_float()) continue;
    throw bad_input(claim.place,
                    fmt::format("matches only layers that are never quantized, such as {}: they choose experts, or do "
                                "not multiply by their weight as it is",
                                *fixed),
                    "remove the rule");
  }
}

}  // namespace roundtable
