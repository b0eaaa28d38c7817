// Asking the rules.
#include "round/schemes.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "plan/rules/reasons.h"

namespace roundtable {
namespace {

using Use = FoundLayer::Use;

std::vector<std::string> names_of_last_block(const NamedModel& model) {
  std::vector<std::string> names;
  for (const FoundLayer& layer : model.layers) {
    if (layer.block == model.facts.n_blocks - 1 && layer.use == Use::kDefault) names.push_back(layer.below);
  }
  return names;
}

// Routers, and whatever lies in other parts.
std::optional<std::string> never_quantized(const NamedModel& model, const LayerPattern& pattern) {
  for (const FoundLayer& layer : model.layers) {
    if (layer.use == Use::kNever && pattern.matches(layer.linear.name)) return layer.below;
  }
  for (const auto* names : {&model.facts.outside_linears, &model.carried_over}) {
    const auto found = std::ranges::find_if(*names, [&](const std::string& name) { return pattern.matches(name); });
    if (found != names->end()) return *found;
  }
  return std::nullopt;
}

}  // namespace

RoundedLayers choose_schemes(const QuantizationSection& section, const NamedModel& model, const Formats& formats) {
  LayerRules rules(section, formats, model.facts.head_layer);
  for (const FoundLayer& layer : model.layers) {
    if (layer.use == Use::kDefault) rules.see_default(layer.linear.name);
  }
  RoundedLayers out;
  out.scheme.common = rules.common();
  out.scheme.iters = 0;
  out.scheme.carried_over = model.carried_over;
  Reasons reasons;
  std::size_t place = 0;
  for (const FoundLayer& layer : model.layers) {
    LayerRules::Choice choice;
    if (layer.use == Use::kDefault || (layer.use == Use::kKept && rules.asks_for(layer.linear.name))) {
      choice = rules.choose(layer.linear);
    }
    out.scheme.layers.push_back({layer.linear, choice.scheme});
    LinearSpec below = layer.linear;
    below.name = layer.below;
    if (!choice.reason.empty()) reasons.add(below, place++, choice.reason, layer.block);
  }
  const LayerRules::Choice head = rules.choose_head(model.head);
  if (head.scheme) out.scheme.layers.push_back({*model.head, head.scheme, /*outside_blocks=*/true});
  rules.refuse_idle([&](const LayerPattern& pattern) { return never_quantized(model, pattern); },
                    layers_text(model.facts.first_block, model.facts.n_blocks, names_of_last_block(model)));
  out.float_reasons = reasons.lines(model.facts.n_blocks);
  if (!head.reason.empty()) {
    out.float_reasons.push_back(fmt::format("{} stays in 16 bits: {}", model.facts.head_layer, head.reason));
  }
  if (std::ranges::none_of(out.scheme.layers, [](const LayerScheme& layer) { return layer.scheme.has_value(); })) {
    throw bad_input("quantization",
                    "no layer can be quantized" + (out.float_reasons.empty() ? "" : ": " + out.float_reasons.front()),
                    fmt::format("the group_size is {}: choose one that divides the layers' input dimensions",
                                rules.common().group_size));
  }
  return out;
}

}  // namespace roundtable
