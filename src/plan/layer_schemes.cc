// Rules to schemes, layer by layer.
#include "plan/layer_schemes.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "export/expert_layers.h"

namespace roundtable {
namespace {

// What a user wrote for some layers, and how many it was found to mean.
struct Claim {
  std::string place;
  std::string text;
  LayerPattern pattern;
  WeightRule rule;
  std::int64_t layers = 0;
};

// What is wrong with a pattern may be its length: the error shows only its beginning.
LayerPattern pattern_of(const std::string& text, const char* key) {
  return LayerPattern(text, fmt::format("{} {}", key, shown(text)));
}

std::vector<Claim> claims_of(const WeightRules& rules) {
  std::vector<Claim> claims;
  for (const WeightRule& rule : rules) {
    const std::string place = fmt::format("quantization.weight_config '{}'", rule.layers);
    claims.push_back({place, rule.layers, pattern_of(rule.layers, "quantization.weight_config"), rule});
  }
  return claims;
}

std::vector<Claim> claims_of(const std::vector<std::string>& ignored) {
  std::vector<Claim> claims;
  for (const std::string& name : ignored) {
    const std::string place = fmt::format("quantization.ignore_layers '{}'", name);
    claims.push_back({place, name, pattern_of(name, "quantization.ignore_layers"), {}});
  }
  return claims;
}

// The claim that decides on `layer`, or null. Counts the layer for each claim that matches.
const Claim* deciding(std::vector<Claim>& claims, const std::string& layer) {
  const Claim* found = nullptr;
  for (Claim& claim : claims) {
    if (!claim.pattern.matches(layer)) continue;
    ++claim.layers;
    if (found == nullptr || !found->pattern.is_exactly(layer)) found = &claim;
  }
  return found;
}

bool matches_any(const Claim& claim, const std::vector<LinearSpec>& layers, const std::string& prefix) {
  return std::any_of(layers.begin(), layers.end(),
                     [&](const LinearSpec& layer) { return claim.pattern.matches(prefix + layer.name); });
}

// Whether some block has a layer that the claim matches: of `linears`, or of `fixed`.
bool matches_any(const Claim& claim, const Model& model, std::vector<LinearSpec> KindTable::*layers) {
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    if (matches_any(claim, model.table(block).*layers, model.block_prefix(block))) return true;
  }
  return false;
}

// The rules that ask for layers which are kept in 16 bits by default, and for no other layers.
std::vector<const Claim*> rules_for_kept(const std::vector<Claim>& rules, const Model& model) {
  std::vector<const Claim*> found;
  for (const Claim& rule : rules) {
    if (rule.rule.keeps_float() || rule.pattern.is_exactly(model.head_layer())) continue;
    if (!matches_any(rule, model, &KindTable::linears)) found.push_back(&rule);
  }
  return found;
}

bool asks_for(const std::vector<const Claim*>& rules, const std::string& layer) {
  return std::any_of(rules.begin(), rules.end(), [&](const Claim* rule) { return rule->pattern.matches(layer); });
}

// The first layer that is never quantized, and that the claim matches; by its name below the block's.
std::optional<std::string> fixed_match(const Claim& claim, const Model& model) {
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    for (const LinearSpec& linear : model.table(block).fixed) {
      if (claim.pattern.matches(model.block_prefix(block) + linear.name)) return linear.name;
    }
  }
  return std::nullopt;
}

// To keep a layer in 16 bits that stays so anyway may be said of every model.
void refuse_idle(const std::vector<Claim>& claims, const Model& model, bool keep_float) {
  for (const Claim& claim : claims) {
    if (claim.layers > 0) continue;
    if (const auto fixed = fixed_match(claim, model)) {
      if (keep_float || claim.rule.keeps_float()) continue;
      throw bad_input(claim.place,
                      fmt::format("matches only layers that are never quantized, such as {}: they choose experts, or do "
                                  "not multiply by their weight as it is",
                                  *fixed),
                      "remove the rule");
    }
    std::vector<std::string> names;
    for (const LinearSpec& linear : model.linears(model.n_blocks() - 1)) names.push_back(linear.name);
    constexpr std::size_t kShown = 8;
    const bool cut = names.size() > kShown;
    if (cut) names.resize(kShown);
    throw bad_input(claim.place, "matches no layer that is quantized",
                    fmt::format("layers: {}.N.NAME with N from 0 to {} and NAME of {}{}",
                                model.block_name(0).substr(0, model.block_name(0).rfind('.')), model.n_blocks() - 1,
                                fmt::join(names, ", "), cut ? ", ..." : ""));
  }
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

// "0, 4-7"
std::string ranges_text(const std::vector<std::int64_t>& sorted) {
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < sorted.size();) {
    std::size_t last = i;
    while (last + 1 < sorted.size() && sorted[last + 1] == sorted[last] + 1) ++last;
    parts.push_back(last == i ? fmt::format("{}", sorted[i]) : fmt::format("{}-{}", sorted[i], sorted[last]));
    i = last + 1;
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

// "mlp.experts.*.up_proj": experts are many, and mostly share a reason.
std::string name_of_all_experts(const LinearSpec& linear) {
  const std::string number = fmt::format(".{}.", linear.expert);
  const std::size_t at = linear.expert < 0 ? std::string::npos : linear.name.find(number);
  return at == std::string::npos ? linear.name : std::string(linear.name).replace(at, number.size(), ".*.");
}

// The blocks in which a layer stays in 16 bits for one reason, in the order of the layers within a block. Experts for
// which the same is true in the same blocks are one line.
class Reasons {
 public:
  // `place` is the layer's among those of the block.
  void add(const LinearSpec& linear, std::size_t place, const std::string& reason, std::int64_t block) {
    const auto [found, is_new] = found_.emplace(std::pair(linear.name, reason), list_.size());
    if (is_new) list_.push_back({linear.name, name_of_all_experts(linear), place, reason, {}});
    list_[found->second].blocks.push_back(block);
  }

  std::vector<std::string> lines(std::int64_t n_blocks) const {
    std::vector<Entry> sorted = list_;
    std::stable_sort(sorted.begin(), sorted.end(), [](const Entry& a, const Entry& b) { return a.place < b.place; });
    std::map<std::tuple<std::string, std::string, std::vector<std::int64_t>>, std::int64_t> alike;
    for (const Entry& entry : sorted) ++alike[entry.key()];
    std::vector<std::string> lines;
    for (const Entry& entry : sorted) {
      const std::int64_t layers = std::exchange(alike[entry.key()], 0);
      if (layers == 0) continue;  // told with the first of them
      std::vector<std::string> which;
      if (layers > 1) which.push_back(fmt::format("{} experts", layers));
      if (std::ssize(entry.blocks) != n_blocks) which.push_back(blocks_text(entry.blocks, n_blocks));
      lines.push_back(fmt::format("{}{} stays in 16 bits: {}", layers > 1 ? entry.shared_name : entry.layer,
                                  which.empty() ? "" : fmt::format(" ({})", fmt::join(which, ", ")), entry.reason));
    }
    return lines;
  }

 private:
  struct Entry {
    std::string layer;
    std::string shared_name;  // of all experts
    std::size_t place;
    std::string reason;
    std::vector<std::int64_t> blocks;

    std::tuple<std::string, std::string, std::vector<std::int64_t>> key() const { return {shared_name, reason, blocks}; }
  };
  std::vector<Entry> list_;
  std::map<std::pair<std::string, std::string>, std::size_t> found_;  // places in list_
};

// Why one of the formats cannot hold a layer.
std::optional<std::string> obstacle_of(const LinearSpec& linear, const QuantScheme& scheme, const Formats& formats) {
  for (const CheckpointFormat* format : formats) {
    if (auto reason = obstacle_of_parts(*format, linear, scheme)) {
      return formats.size() == 1 ? *reason : fmt::format("{} ({})", *reason, format->name());
    }
  }
  return std::nullopt;
}

// Adds the places of the options that a layer can have to `possible`; without any, returns why it has not the first.
std::optional<std::string> obstacle_of_all(const LinearSpec& linear,
                                           const std::vector<std::optional<QuantScheme>>& options,
                                           const Formats& formats, std::vector<std::size_t>& possible) {
  std::optional<std::string> first;
  bool quantized = false;
  for (std::size_t i = 0; i < options.size(); ++i) {
    auto reason = options[i] ? obstacle_of(linear, *options[i], formats) : std::nullopt;
    if (!reason) {
      possible.push_back(i);
      quantized = quantized || options[i];
    } else if (!first) {
      first = std::move(reason);
    }
  }
  if (quantized) return std::nullopt;
  possible.clear();
  return first;
}

// Layers of one kind mostly share a reason: the first says enough.
[[noreturn]] void refuse_float_model(const std::vector<std::string>& reasons, const QuantScheme& common) {
  const std::string more = reasons.size() > 1 ? fmt::format(" (and {} other kinds of layers)", reasons.size() - 1) : "";
  throw bad_input(
      "quantization", fmt::format("no layer can be quantized: {}{}", reasons.front(), more),
      fmt::format("the group_size is {}: choose one that divides the layers' input dimensions", common.group_size));
}

// The head is a layer like others once somebody asks for it; to keep it as it is may be said of every model.
std::optional<QuantScheme> head_scheme(const QuantizationSection& section, const Model& model,
                                       const Formats& formats, std::vector<Claim>& rules, std::vector<Claim>& ignored,
                                       std::vector<std::string>& reasons) {
  const std::string head = model.head_layer();
  const bool wanted = section.quant_lm_head || std::any_of(rules.begin(), rules.end(), [&](const Claim& claim) {
                        return claim.pattern.is_exactly(head) && !claim.rule.keeps_float();
                      });
  if (!wanted) {
    for (Claim& claim : rules) claim.layers += claim.rule.keeps_float() && claim.pattern.matches(head);
    for (Claim& claim : ignored) claim.layers += claim.pattern.matches(head);
    return std::nullopt;
  }
  const Claim* rule = deciding(rules, head);
  const Claim* skip = deciding(ignored, head);
  if (skip || (rule && rule->rule.keeps_float())) {
    reasons.push_back(fmt::format("{} stays in 16 bits: {}", head, skip ? skip->place : rule->place));
    return std::nullopt;
  }
  if (!model.head()) {
    throw bad_input(rule ? rule->place : "quantization.quant_lm_head",
                    "this model's head is its embedding table (tie_word_embeddings), which stays in 16 bits",
                    "leave the head out");
  }
  const QuantScheme common = scheme_of(section, formats);
  const QuantScheme scheme = rule ? changed(common, rule->rule) : common;
  if (rule && !rule->rule.keeps_float()) check_float4(rule->place, scheme);
  const auto reason = obstacle_of(*model.head(), scheme, formats);
  if (reason) reasons.push_back(fmt::format("{} stays in 16 bits: {}", head, *reason));
  return reason ? std::nullopt : std::optional<QuantScheme>(scheme);
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

LayerSchemes resolve_schemes(const QuantizationSection& section, const Model& float_model, const Formats& formats) {
  const QuantScheme common = scheme_of(section, formats);
  check_float4("quantization.data_type", common);
  std::vector<Claim> rules = claims_of(section.weight_config);
  std::vector<Claim> ignored = claims_of(section.ignore_layers);
  const std::vector<const Claim*> for_kept = rules_for_kept(rules, float_model);
  LayerSchemes out;
  out.model = float_model.with_linears([&](const LinearSpec& linear) { return asks_for(for_kept, linear.name); });
  const Model& model = out.model;
  Reasons reasons;
  bool any = false;
  std::vector<std::optional<QuantScheme>> options;
  for (const SchemeOption& option : section.auto_scheme.options) {
    options.push_back(scheme_of_option(section, option, formats));
  }
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    BlockSchemes& schemes = out.blocks.emplace_back();
    auto& open = out.open.emplace_back(model.linears(block).size());
    for (const LinearSpec& linear : model.linears(block)) {
      const std::string layer = model.block_prefix(block) + linear.name;
      if (float_model.table(block).by_rule.contains(linear.name) && !asks_for(for_kept, layer)) {
        out.kept.emplace(block, schemes.size());
        schemes.push_back(std::nullopt);
        continue;
      }
      const Claim* rule = deciding(rules, layer);
      const Claim* skip = deciding(ignored, layer);
      const QuantScheme scheme = rule ? changed(common, rule->rule) : common;
      if (rule && !rule->rule.keeps_float()) check_float4(rule->place, scheme);
      std::optional<std::string> reason;
      if (skip) {
        reason = skip->place;
      } else if (rule && rule->rule.keeps_float()) {
        reason = rule->place;
      } else if (!rule && section.auto_scheme.is_on()) {
        reason = obstacle_of_all(linear, options, formats, open[schemes.size()]);
        if (!reason) {
          schemes.push_back(std::nullopt);
          any = true;
          continue;
        }
      } else {
        reason = obstacle_of(linear, scheme, formats);
      }
      schemes.push_back(reason ? std::nullopt : std::optional<QuantScheme>(scheme));
      if (reason) reasons.add(linear, schemes.size() - 1, *reason, block);
      any = any || !reason;
      if (!reason && float_model.table(block).by_rule.contains(linear.name)) out.by_rule.insert(linear.name);
    }
  }
  std::vector<std::string> head_reasons;
  out.head = head_scheme(section, model, formats, rules, ignored, head_reasons);
  refuse_idle(rules, float_model, /*keep_float=*/false);
  refuse_idle(ignored, float_model, /*keep_float=*/true);
  out.float_reasons = reasons.lines(model.n_blocks());
  out.float_reasons.insert(out.float_reasons.end(), head_reasons.begin(), head_reasons.end());
  if (!any) refuse_float_model(out.float_reasons, common);
  return out;
}

std::string blocks_text(const std::vector<std::int64_t>& blocks, std::int64_t n_blocks) {
  if (std::ssize(blocks) == n_blocks) return "all blocks";
  return fmt::format("{} {}", blocks.size() == 1 ? "block" : "blocks", ranges_text(blocks));
}

std::string scheme_text(const QuantScheme& scheme) {
  if (scheme.type != WeightType::kInt) {
    return fmt::format("floats of 4 bits ({}), groups of {}", word_of(scheme.type), scheme.group_size);
  }
  return fmt::format("{} bits, {}, {}", scheme.bits, scheme.symmetric ? "sym" : "asym",
                     scheme.group_size < 0 ? "one group a channel" : fmt::format("groups of {}", scheme.group_size));
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
