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

namespace {

// The first comma from `start` on that no regular expression needs: not in a set [,], in a quantifier {1,2}, in a group
// (a,b), or behind a backslash. npos if there is none.
std::size_t separating_comma(std::string_view text, std::size_t start) {
  bool in_set = false;
  int depth = 0;  // of brackets
  for (std::size_t i = start; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\') {
      ++i;
    } else if (in_set) {
      in_set = c != ']';
    } else if (c == '[') {
      in_set = true;
    } else if (c == '(' || c == '{') {
      ++depth;
    } else if (c == ')' || c == '}') {
      --depth;
    } else if (c == ',' && depth <= 0) {
      return i;
    }
  }
  return std::string_view::npos;
}

// The list that `text` is in YAML, as in a file: [a, b]. Kind::kScalar if it is none: [qk]_proj is a regular
// expression.
YamlNode listed_node(const std::string& text) {
  YamlNode plain;
  plain.kind = YamlNode::Kind::kScalar;
  if (!text.starts_with('[') || !text.ends_with(']')) return plain;
  try {
    YamlNode node = parse_yaml(text, "");
    return node.kind == YamlNode::Kind::kList ? node : plain;
  } catch (const Error&) {
    return plain;
  }
}

}  // namespace

template <>
std::optional<std::vector<std::string>> convert(const YamlNode& node, Origin origin) {
  std::vector<std::string> items;
  if (origin == Origin::kOption) {
    if (node.text.empty()) return items;
    if (const YamlNode list = listed_node(node.text); list.kind == YamlNode::Kind::kList) {
      return convert<std::vector<std::string>>(list, Origin::kFile);
    }
    for (std::size_t start = 0, end = 0; end != std::string::npos; start = end + 1) {
      end = separating_comma(node.text, start);
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
