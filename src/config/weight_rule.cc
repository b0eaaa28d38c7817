// Reading and writing rules for single layers, and matching them with the names of layers.
#include "config/weight_rule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "config/value.h"

namespace roundtable {
namespace {

const std::vector<std::string> kKeys = {"bits", "group_size", "scheme", "data_type"};

template <class T>
void set_value(std::optional<T>& field, const YamlNode& node, const std::string& place,
               const Constraint<T>& constraint) {
  auto value = convert<T>(node, Origin::kFile);
  if (!value || !constraint.holds(*value)) {
    throw bad_input(place, fmt::format("expected {}, found {}", constraint.values, shown_node(node)));
  }
  field = std::move(*value);
}

void set_key(WeightRule& rule, const std::string& key, const YamlNode& node, const std::string& place) {
  if (key == "bits") {
    set_value(rule.bits, node, place, one_of<std::int64_t>({2, 3, 4, 8, 16}));
  } else if (key == "group_size") {
    set_value(rule.group_size, node, place, special_or_from(-1, 1, std::int64_t{1} << 20));
  } else if (key == "scheme") {
    set_value(rule.scheme, node, place, choice<Symmetry>());
  } else if (key == "data_type") {
    set_value(rule.data_type, node, place, choice<RuleType>());
  } else {
    const std::string guess = nearest(key, kKeys);
    throw bad_input(place, fmt::format("unknown key {}", shown(key)),
                    fmt::format("{}keys: {}", did_you_mean(guess), fmt::join(kKeys, ", ")));
  }
}

// data_type float and 16 bits are two ways to say that a layer stays as it is.
void settle_kept_layer(WeightRule& rule, const std::string& place) {
  if (rule.data_type == RuleType::kFloat && !rule.bits) rule.bits = 16;
  if (rule.keeps_float() && !rule.data_type) rule.data_type = RuleType::kFloat;
  if (rule.keeps_float() != (rule.data_type == RuleType::kFloat)) {
    throw bad_input(place, "16 bits and data_type float belong together", "give one of them, or bits of 2, 3, 4 or 8");
  }
}

bool is_regex(std::string_view text) {
  return text.find(".*") != std::string_view::npos || text.find_first_of("^$|()[]?+{}\\") != std::string_view::npos;
}

// auto-round's reading: a dot is a dot unless it is repeated.
std::string regex_text(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::string_view rest = text.substr(i + 1);
    if (text[i] == '\\' && !rest.empty()) {
      out += text.substr(i++, 2);
    } else if (text[i] == '.' && (rest.empty() || std::string_view("*+?{").find(rest[0]) == std::string_view::npos)) {
      out += "\\.";
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

WeightRules read_weight_rules(const YamlNode& node, const std::string& file, const std::string& place) {
  if (node.kind == YamlNode::Kind::kNull) return {};
  if (node.kind != YamlNode::Kind::kMap) {
    throw bad_input(
        place, fmt::format("expected layer names or regular expressions with settings, found {}", shown_node(node)),
        "such as {\"mlp.down_proj\": {bits: 8}}");
  }
  WeightRules rules;
  for_each_entry(node, file, "", [&](const std::string& layers, const std::string& line, const YamlNode& settings) {
    const std::string where = fmt::format("{}: weight_config {}", line, shown(layers));
    if (layers.empty()) throw bad_input(where, "the name is empty");
    if (settings.kind != YamlNode::Kind::kMap || settings.items.empty()) {
      throw bad_input(where, fmt::format("expected settings, found {}", shown_node(settings)),
                      fmt::format("keys: {}", fmt::join(kKeys, ", ")));
    }
    LayerPattern(layers, where);
    WeightRule rule;
    rule.layers = layers;
    for_each_entry(settings, file, layers + ".",
                   [&](const std::string& key, const std::string& key_line, const YamlNode& value) {
                     set_key(rule, key, value, fmt::format("{}: weight_config {}: {}", key_line, shown(layers), key));
                   });
    settle_kept_layer(rule, where);
    rules.push_back(std::move(rule));
  });
  return rules;
}

std::string written(const WeightRules& rules) {
  std::vector<std::string> entries;
  for (const WeightRule& rule : rules) {
    std::vector<std::string> settings;
    if (rule.bits) settings.push_back(fmt::format("bits: {}", *rule.bits));
    if (rule.group_size) settings.push_back(fmt::format("group_size: {}", *rule.group_size));
    if (rule.scheme) settings.push_back(fmt::format("scheme: {}", word_of(*rule.scheme)));
    if (rule.data_type) settings.push_back(fmt::format("data_type: {}", word_of(*rule.data_type)));
    entries.push_back(fmt::format("{}: {{{}}}", quoted(rule.layers), fmt::join(settings, ", ")));
  }
  return fmt::format("{{{}}}", fmt::join(entries, ", "));
}

LayerPattern::LayerPattern(const std::string& text, const std::string& place) : text_(text) {
  if (is_regex(text)) pattern_.emplace(regex_text(text), place);
}

bool LayerPattern::matches(const std::string& layer) const {
  if (pattern_) return pattern_->is_in(layer);
  const bool number = text_.back() >= '0' && text_.back() <= '9';
  for (auto at = layer.find(text_); at != std::string::npos; at = layer.find(text_, at + 1)) {
    const std::size_t end = at + text_.size();
    if (!number || end == layer.size() || layer[end] < '0' || layer[end] > '9') return true;
  }
  return false;
}

}  // namespace roundtable
