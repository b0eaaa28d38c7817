// The names of all sections and keys of the config, and the errors for names that are not among them. For this folder
// alone.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace roundtable {

// A visitor that lists them.
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
  void operator()(const char* key, T&, Effect, const char*, const Constraint<T>&) {
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
  // "section.key" of every section that has exactly this key.
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

const Names& names();

// Throw Error (kBadInput) for an unknown name. The message begins with `place`, guesses which name was meant, and lists
// the known ones.
void check_section(const std::string& place, std::string_view name);
void check_key(const std::string& place, std::string_view section, std::string_view key);

}  // namespace roundtable
