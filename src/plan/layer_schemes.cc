// Rules to schemes, layer by layer.
#include "plan/layer_schemes.h"

#include <fmt/ranges.h>

#include "base/error.h"
#include "plan/rules/reasons.h"

namespace roundtable {
namespace {

// The first layer that is never quantized, and that the pattern matches; by its name below the block's.
std::optional<std::string> fixed_match(const LayerPattern& pattern, const Model& model) {
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    for (const LinearSpec& linear : model.table(block).fixed) {
      if (pattern.matches(model.block_prefix(block) + linear.name)) return linear.name;
    }
  }
  return std::nullopt;
}

std::vector<std::string> names_of_last_block(const Model& model) {
  std::vector<std::string> names;
  for (const LinearSpec& linear : model.linears(model.n_blocks() - 1)) names.push_back(linear.name);
  return names;
}

// Layers of one kind mostly share a reason: the first says enough.
[[noreturn]] void refuse_float_model(const std::vector<std::string>& reasons, const QuantScheme& common) {
  const std::string more = reasons.size() > 1 ? fmt::format(" (and {} other kinds of layers)", reasons.size() - 1) : "";
  throw bad_input(
      "quantization", fmt::format("no layer can be quantized: {}{}", reasons.front(), more),
      fmt::format("the group_size is {}: choose one that divides the layers' input dimensions", common.group_size));
}

}  // namespace

LayerSchemes resolve_schemes(const QuantizationSection& section, const Model& float_model, const Formats& formats) {
  LayerRules rules(section, formats, float_model.head_layer());
  for (std::int64_t block = 0; block < float_model.n_blocks(); ++block) {
    for (const LinearSpec& linear : float_model.linears(block)) {
      rules.see_default(float_model.block_prefix(block) + linear.name);
    }
  }
  LayerSchemes out;
  out.model = float_model.with_linears([&](const LinearSpec& linear) { return rules.asks_for(linear.name); });
  const Model& model = out.model;
  Reasons reasons;
  bool any = false;
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    BlockSchemes& schemes = out.blocks.emplace_back();
    auto& open = out.open.emplace_back();
    for (const LinearSpec& own : model.linears(block)) {
      const LinearSpec linear = own.below(model.block_prefix(block));
      const bool by_rule = float_model.table(block).by_rule.contains(own.name);
      if (by_rule && !rules.asks_for(linear.name)) {
        out.kept.emplace(block, schemes.size());
        schemes.push_back(std::nullopt);
        open.emplace_back();
        continue;
      }
      const LayerRules::Choice choice = rules.choose(linear);
      schemes.push_back(choice.scheme);
      open.push_back(choice.open);
      const bool is_quantized = choice.scheme || !choice.open.empty();
      if (!is_quantized) reasons.add(own, schemes.size() - 1, choice.reason, block);
      any = any || is_quantized;
      if (choice.scheme && by_rule) out.by_rule.insert(own.name);
    }
  }
  const LayerRules::Choice head = rules.choose_head(model.head());
  out.head = head.scheme;
  rules.refuse_idle([&](const LayerPattern& pattern) { return fixed_match(pattern, float_model); },
                    layers_text(float_model.block_name(0), float_model.n_blocks(), names_of_last_block(float_model)));
  out.float_reasons = reasons.lines(model.n_blocks());
  if (!head.reason.empty()) {
    out.float_reasons.push_back(fmt::format("{} stays in 16 bits: {}", model.head_layer(), head.reason));
  }
  if (!any) refuse_float_model(out.float_reasons, rules.common());
  return out;
}

std::vector<LayerScheme> checkpoint_layers(const Model& model, const SchemeAt& scheme_at) {
  std::vector<LayerScheme> layers;
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    const std::string& prefix = model.block_prefix(block);
    const KindTable& table = model.table(block);
    for (std::size_t i = 0; i < table.linears.size(); ++i) {
      const LinearSpec linear = table.linears[i].below(prefix);
      layers.push_back({linear, scheme_at(linear, block, i)});
    }
    for (const LinearSpec& linear : table.fixed) layers.push_back({linear.below(prefix), std::nullopt});
  }
  if (!model.head()) return layers;
  if (const auto scheme = scheme_at(*model.head(), -1, 0)) {
    layers.push_back({*model.head(), scheme, /*outside_blocks=*/true});
  }
  return layers;
}

}  // namespace roundtable
