// Conversions of YAML nodes to text, units and lists, and of nodes to words.
#include "config/value.h"

namespace roundtable {

template <>
std::optional<std::string> convert(const YamlNode& node, Origin) {
  if (node.kind != YamlNode::Kind::kScalar) return {};
  return node.text;
}

template <>
std::optional<ByteSize> convert(const YamlNode& node, Origin) {
  if (node.kind != YamlNode::Kind::kScalar) return {};
  return ByteSize::parse(node.text);
}

template <>
std::optional<TimeSpan> convert(const YamlNode& node, Origin) {
  if (node.kind != YamlNode::Kind::kScalar) return {};
  return TimeSpan::parse(node.text);
}

template <>
std::optional<std::vector<std::string>> convert(const YamlNode& node, Origin origin) {
  std::vector<std::string> items;
  if (origin == Origin::kOption) {
    if (node.text.empty()) return items;
    for (std::size_t start = 0, end = 0; end != std::string::npos; start = end + 1) {
      end = node.text.find(',', start);
      items.push_back(node.text.substr(start, end - start));
    }
    return items;
  }
  if (node.kind != YamlNode::Kind::kList) return {};
  for (const auto& item : node.items) {
    if (item.kind != YamlNode::Kind::kScalar) return {};
    items.push_back(item.text);
  }
  return items;
}

std::string shown_node(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kScalar:
      return (node.quoted ? "the text " : "") + shown(node.text);
    case YamlNode::Kind::kMap:
      return "a mapping";
    case YamlNode::Kind::kList:
      break;
  }
  std::string line;
  for (const auto& item : node.items) {
    if (line.size() > 100) {
      line += ", ...";
      break;
    }
    const bool nested = item.kind == YamlNode::Kind::kList;
    line += fmt::format("{}{}", line.empty() ? "" : ", ", nested ? "a list" : shown_node(item));
  }
  return fmt::format("[{}]", line);
}

}  // namespace roundtable
