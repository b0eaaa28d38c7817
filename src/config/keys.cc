// Checks of the names of sections and keys.
#include "config/keys.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace roundtable {
const Names& names() {
  static const Names listed = [] {
    Names lister;
    Config().visit(lister);
    return lister;
  }();
  return listed;
}

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

}  // namespace roundtable
