// YAML text as a small tree with line numbers, for the config reader.
//
// Built on yaml-cpp's events and not on YAML::Node, which drops what a strict reader needs: it accepts duplicate keys,
// forgets whether a scalar was quoted, and expands aliases (a few lines can stand for gigabytes).
#pragma once

#include <string>
#include <vector>

namespace roundtable {

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };

  Kind kind = Kind::kNull;
  std::string text;             // kScalar
  bool quoted = false;          // kScalar: written in quotes or as a block, so not a number or a truth value
  int line = 0;                 // counted from 1
  std::vector<YamlNode> items;  // kList: its items; kMap: key, value, key, value ...
};

// The single document in `text`; kNull for one without content. Anchors, aliases, tags and deep nesting are refused.
// Throws Error (kBadInput) with `place` and the line.
YamlNode parse_yaml(const std::string& text, const std::string& place);

}  // namespace roundtable
