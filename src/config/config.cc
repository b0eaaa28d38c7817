// The visitors behind config.h: lister, setter, writer and help table; and the strict reader of files and overrides.
#include "config/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

#include "base/error.h"
#include "config/text.h"
#include "config/yaml_tree.h"

namespace roundtable {
namespace {

constexpr std::size_t kLargestFile = std::size_t{1} << 20;

// ---- the names -------------------------------------------------------------------------------------------------

struct Names {
  struct Section {
    std::string name;
    std::vector<std::string> keys;
  };
  std::vector<Section> sections;

  template <class Struct>
  void section(const char* name, Struct& fields, const char*) {
    sections.push_back({name, {}});
    fields.visit(*this);
  }
  template <class T>
  void operator()(const char* key, T&, const char*, const Constraint<T>&) {
    sections.back().keys.push_back(key);
  }

  std::vector<std::string> section_names() const {
    std::vector<std::string> names;
    for (const auto& section : sections) names.push_back(section.name);
    return names;
  }
  const Section* find(std::string_view name) const {
    for (const auto& section : sections) {
      if (section.name == name) return &section;
    }
    return nullptr;
  }
  // "section.key" of every section that has this very key.
  std::vector<std::string> homes_of(std::string_view key) const {
    std::vector<std::string> homes;
    for (const auto& section : sections) {
      for (const auto& known : section.keys) {
        if (known == key) homes.push_back(section.name + "." + known);
      }
    }
    return homes;
  }
};

const Names& names() {
  static const Names listed = [] {
    Names lister;
    Config().visit(lister);
    return lister;
  }();
  return listed;
}

std::string did_you_mean(const std::string& name) { return name.empty() ? "" : fmt::format("did you mean {}? ", name); }

void check_section(const std::string& place, std::string_view name) {
  if (names().find(name)) return;
  const auto known = names().section_names();
  auto guess = nearest(name, known);
  const auto homes = names().homes_of(name);
  if (guess.empty() && !homes.empty()) guess = fmt::format("{}", fmt::join(homes, " or "));
  throw bad_input(place, fmt::format("unknown section {}", shown(name)),
                  fmt::format("{}sections: {}", did_you_mean(guess), fmt::join(known, ", ")));
}

void check_key(const std::string& place, std::string_view section, std::string_view key) {
  const auto& known = names().find(section)->keys;
  if (std::find(known.begin(), known.end(), key) != known.end()) return;
  auto guess = fmt::format("{}", fmt::join(names().homes_of(key), " or "));
  if (guess.empty()) guess = nearest(key, known);
  throw bad_input(place, fmt::format("unknown key {}", shown(key)),
                  fmt::format("{}keys of {}: {}", did_you_mean(guess), section, fmt::join(known, ", ")));
}

// ---- values in -------------------------------------------------------------------------------------------------

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

enum class Origin { kFile, kOption };

// The value of a node as a field's type; nothing where it is of another type.
template <class T>
std::optional<T> convert(const YamlNode& node, Origin) {
  if (node.kind != YamlNode::Kind::kScalar || node.quoted) return {};
  if constexpr (std::is_same_v<T, bool>) {
    if (node.text == "true") return true;
    if (node.text == "false") return false;
    return {};
  } else {
    return parse_number<T>(node.text);
  }
}

template <>
std::optional<std::string> convert(const YamlNode& node, Origin) {
  if (node.kind != YamlNode::Kind::kScalar) return {};
  return node.text;
}

template <>
std::optional<std::vector<std::string>> convert(const YamlNode& node, Origin origin) {
  std::vector<std::string> items;
  if (origin == Origin::kOption) {
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

// Sets the one field named "section.key".
class Setter {
 public:
  Setter(std::string_view section, std::string_view key, const YamlNode& node, Origin origin, std::string place)
      : section_(section), key_(key), node_(node), origin_(origin), place_(std::move(place)) {}

  template <class Struct>
  void section(const char* name, Struct& fields, const char*) {
    if (name == section_) fields.visit(*this);
  }
  template <class T>
  void operator()(const char* key, T& field, const char*, const Constraint<T>& constraint) {
    if (key != key_) return;
    auto value = convert<T>(node_, origin_);
    if (!value || !constraint.holds(*value)) {
      const bool empty = node_.kind == YamlNode::Kind::kNull && std::is_same_v<T, std::string>;
      throw bad_input(place_, fmt::format("expected {}, found {}", constraint.values, shown_node(node_)),
                      empty ? "write \"\" for an empty text" : "");
    }
    field = std::move(*value);
  }

 private:
  std::string_view section_;
  std::string_view key_;
  const YamlNode& node_;
  Origin origin_;
  std::string place_;
};

void set(Config& config, std::string_view section, std::string_view key, const YamlNode& node, Origin origin,
         const std::string& place) {
  Setter setter(section, key, node, origin, place);
  config.visit(setter);
}

// ---- files and overrides ---------------------------------------------------------------------------------------

std::string read_file(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (!file) throw bad_input(path, fmt::format("cannot open the config: {}", std::strerror(errno)));
  std::string text(kLargestFile + 1, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get())) throw bad_input(path, fmt::format("cannot read the config: {}", std::strerror(errno)));
  if (text.size() > kLargestFile) throw bad_input(path, "is larger than 1 MiB, so it is no config");
  return text;
}

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

void apply_document(Config& config, const YamlNode& root, const std::string& file) {
  if (root.kind == YamlNode::Kind::kNull) {
    throw bad_input(file, "is empty", fmt::format("sections: {}", fmt::join(names().section_names(), ", ")));
  }
  if (root.kind != YamlNode::Kind::kMap) {
    throw bad_input(fmt::format("{}:{}", file, root.line), fmt::format("expected sections, found {}", shown_node(root)),
                    fmt::format("sections: {}", fmt::join(names().section_names(), ", ")));
  }
  for_each_entry(root, file, "", [&](const std::string& section, const std::string& line, const YamlNode& body) {
    check_section(line, section);
    if (body.kind == YamlNode::Kind::kNull) return;  // all its keys are commented out
    if (body.kind != YamlNode::Kind::kMap) {
      throw bad_input(fmt::format("{}: {}", line, section),
                      fmt::format("expected a section with keys, found {}", shown_node(body)),
                      fmt::format("keys of {}: {}", section, fmt::join(names().find(section)->keys, ", ")));
    }
    for_each_entry(body, file, section + ".",
                   [&](const std::string& key, const std::string& key_line, const YamlNode& value) {
                     check_key(fmt::format("{}: {}", key_line, section), section, key);
                     const auto place = fmt::format("{}: {}.{}", key_line, section, key);
                     set(config, section, key, value, Origin::kFile, place);
                   });
  });
}

void apply_override(Config& config, const std::string& option) {
  const std::string place = fmt::format("--set {}", shown(option));
  const auto equals = option.find('=');
  const auto dot = option.find('.');
  if (equals == std::string::npos || dot == std::string::npos || dot > equals) {
    throw bad_input(place, "expected section.key=value");
  }
  if (!is_text(option)) throw bad_input(place, "is not UTF-8 text");
  const std::string section = option.substr(0, dot);
  const std::string key = option.substr(dot + 1, equals - dot - 1);
  check_section(place, section);
  check_key(place, section, key);
  YamlNode node;
  node.kind = YamlNode::Kind::kScalar;
  node.text = option.substr(equals + 1);
  set(config, section, key, node, Origin::kOption, place);
}

// ---- values out ------------------------------------------------------------------------------------------------

std::string written(bool value) { return value ? "true" : "false"; }
std::string written(std::int64_t value) { return fmt::format("{}", value); }
std::string written(double value) { return fmt::format("{}", value); }  // shortest that reads back the same

// Plain where it cannot be taken for anything but text, else in double quotes.
std::string written(const std::string& text) {
  constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  constexpr std::string_view kOthers = "0123456789_./:-";
  const auto inside = [](std::string_view set, char c) { return set.find(c) != std::string_view::npos; };
  const bool plain =
      !text.empty() && (inside(kLetters, text[0]) || text[0] == '/') && text.back() != ':' && text != "null" &&
      text != "Null" && text != "NULL" &&
      std::all_of(text.begin(), text.end(), [&](char c) { return inside(kLetters, c) || inside(kOthers, c); });
  if (plain) return text;
  std::string line = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      if (c == '"' || c == '\\') line += '\\';
      line += c;
    }
  }
  return line + '"';
}

std::string written(const std::vector<std::string>& items) {
  std::vector<std::string> parts;
  for (const auto& item : items) parts.push_back(written(item));
  return fmt::format("[{}]", fmt::join(parts, ", "));
}

struct Writer {
  std::string text;

  template <class Struct>
  void section(const char* name, Struct& fields, const char*) {
    text += fmt::format("{}:\n", name);
    fields.visit(*this);
  }
  template <class T>
  void operator()(const char* key, T& field, const char*, const Constraint<T>&) {
    text += fmt::format("  {}: {}\n", key, written(field));
  }
};

struct HelpTable {
  std::string text;
  std::string section_name;

  template <class Struct>
  void section(const char* name, Struct& fields, const char* help) {
    section_name = name;
    text += fmt::format("{}{}: {}\n", text.empty() ? "" : "\n", name, help);
    fields.visit(*this);
  }
  template <class T>
  void operator()(const char* key, T& field, const char* help, const Constraint<T>& constraint) {
    const std::string value = written(field);
    text += fmt::format("  {:<35} {} [{}{}]\n", section_name + "." + key, help, constraint.values,
                        value == "\"\"" ? "" : "; default " + value);
  }
};

// Finds the one text field named "section.key".
struct TextFinder {
  std::string_view wanted;
  std::string section_name;
  const std::string* found = nullptr;

  template <class Struct>
  void section(const char* name, Struct& fields, const char*) {
    section_name = name;
    fields.visit(*this);
  }
  template <class T>
  void operator()(const char* key, T& field, const char*, const Constraint<T>&) {
    if constexpr (std::is_same_v<T, std::string>) {
      if (section_name + "." + key == wanted) found = &field;
    }
  }
};

}  // namespace

namespace {

Config finish(Config config, const std::string& place, const std::vector<std::string>& overrides) {
  for (const auto& option : overrides) apply_override(config, option);
  require_keys(config, {"model.path"}, place);
  return config;
}

}  // namespace

Config parse_config(const std::string& text, const std::string& place, const std::vector<std::string>& overrides) {
  Config config;
  apply_document(config, parse_yaml(text, place), place);
  return finish(std::move(config), place, overrides);
}

Config load_config(const std::string& path, const std::vector<std::string>& overrides,
                   const std::string& cluster_file) {
  Config config;
  for (const std::string& file : {path, cluster_file}) {
    if (!file.empty()) apply_document(config, parse_yaml(read_file(file), file), file);
  }
  return finish(std::move(config), path, overrides);
}

void require_keys(const Config& config, const std::vector<std::string>& keys, std::string_view place) {
  Config copy = config;
  for (const auto& key : keys) {
    TextFinder finder{key, {}};
    copy.visit(finder);
    RT_CHECK(finder.found != nullptr);
    if (finder.found->empty()) {
      throw bad_input(fmt::format("{}: {}", place, key), "is not set",
                      fmt::format("write it there, or add --set {}=VALUE", key));
    }
  }
}

std::string to_yaml(const Config& config) {
  Config copy = config;
  Writer writer;
  copy.visit(writer);
  return writer.text;
}

std::string describe_keys() {
  HelpTable table;
  Config().visit(table);
  return table.text;
}

}  // namespace roundtable
