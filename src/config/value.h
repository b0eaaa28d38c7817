// YAML nodes and text to the values of fields, and values to words. For this folder alone.
#pragma once

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "config/choices.h"
#include "config/units.h"
#include "config/yaml_tree.h"

namespace roundtable {

enum class Origin { kFile, kOption };

// All of `text` as a number, in the one spelling that no YAML version reads otherwise (010 is 8 to some).
template <class Number>
std::optional<Number> parse_number(std::string_view text) {
  const std::string_view digits = text.substr(text.starts_with('-'));
  if (digits.size() > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9') return {};
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return value;
}

// The value of a node as a field's type; nothing if it is of another type.
template <class T>
std::optional<T> convert(const YamlNode& node, Origin) {
  if (node.kind != YamlNode::Kind::kScalar) return {};
  if constexpr (kIsChoice<T>) {
    return value_of<T>(node.text);
  } else if (node.quoted) {
    return {};
  } else if constexpr (std::is_same_v<T, bool>) {
    if (node.text == "true") return true;
    if (node.text == "false") return false;
    return {};
  } else {
    return parse_number<T>(node.text);
  }
}
template <>
std::optional<std::string> convert(const YamlNode& node, Origin);
template <>
std::optional<ByteSize> convert(const YamlNode& node, Origin);
template <>
std::optional<TimeSpan> convert(const YamlNode& node, Origin);
template <>
std::optional<std::vector<std::string>> convert(const YamlNode& node, Origin origin);

// A node in words, for error messages: "nothing", "the text '3'", "a mapping".
std::string shown_node(const YamlNode& node);

// Calls visit(key, place, value) for each entry of a mapping whose keys are distinct texts. `outer` is "" or
// "section.".
template <class Visit>
void for_each_entry(const YamlNode& map, const std::string& file, const std::string& outer, const Visit& visit) {
  std::map<std::string, int> seen;
  for (std::size_t i = 0; i + 1 < map.items.size(); i += 2) {
    const YamlNode& key = map.items[i];
    const std::string line = fmt::format("{}:{}", file, key.line);
    if (key.kind != YamlNode::Kind::kScalar) {
      throw bad_input(line, fmt::format("expected a name before the colon, found {}", shown_node(key)));
    }
    const auto [earlier, first] = seen.emplace(key.text, key.line);
    if (!first) {
      throw bad_input(line,
                      fmt::format("{} is given twice, first in line {}", shown(outer + key.text), earlier->second));
    }
    visit(key.text, line, map.items[i + 1]);
  }
}

}  // namespace roundtable
