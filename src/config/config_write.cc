// Configs as text: the resolved dump, the table for `--help`, and the check of keys that a command requires.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "config/config.h"
#include "config/value.h"

namespace roundtable {
namespace {

std::string written(bool value) { return value ? "true" : "false"; }
std::string written(std::int64_t value) { return fmt::format("{}", value); }
std::string written(double value) { return fmt::format("{}", value); }  // the shortest text that reads back the same
template <IsChoice E>
std::string written(E value) {
  return std::string(word_of(value));
}

// Without quotes if it cannot be taken for anything but text, else in double quotes.
std::string written(const std::string& text) {
  constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  constexpr std::string_view kOthers = "0123456789_./:-";
  const auto inside = [](std::string_view set, char c) { return set.find(c) != std::string_view::npos; };
  const bool plain =
      !text.empty() && (inside(kLetters, text[0]) || text[0] == '/') && text.back() != ':' && text != "null" &&
      text != "Null" && text != "NULL" &&
      std::all_of(text.begin(), text.end(), [&](char c) { return inside(kLetters, c) || inside(kOthers, c); });
  if (plain) return text;
  return quoted(text);
}

std::string written(const ByteSize& size) { return written(size.text()); }
std::string written(const TimeSpan& span) { return written(span.text()); }

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
  void operator()(const char* key, T& field, Effect, const char*, const Constraint<T>&) {
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
  void operator()(const char* key, T& field, Effect, const char* help, const Constraint<T>& constraint) {
    const std::string value = written(field);
    text += fmt::format("  {:<35} {} [{}{}]\n", section_name + "." + key, help, constraint.values,
                        value == "\"\"" || value == "[]" || value == "{}" ? "" : "; default " + value);
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
  void operator()(const char* key, T& field, Effect, const char*, const Constraint<T>&) {
    if constexpr (std::is_same_v<T, std::string>) {
      if (section_name + "." + key == wanted) found = &field;
    }
  }
};

}  // namespace

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
