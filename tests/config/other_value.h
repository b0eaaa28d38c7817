// Another valid value for a key of the config, whatever its type.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"

namespace roundtable {

// A value that differs from `value` and that the key takes; nothing if `value` is the only one.
template <class T>
std::optional<T> other_value(const T& value, const Constraint<T>& constraint) {
  std::vector<T> candidates;
  if constexpr (IsChoice<T>) {
    for (const Choice<T>& choice : kChoices<T>) candidates.push_back(choice.value);
  } else if constexpr (std::is_same_v<T, bool>) {
    return !value;
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    candidates = {7, 3};
  } else if constexpr (std::is_same_v<T, double>) {
    candidates = {1.0 / 3, 0.25, 1.5};
  } else if constexpr (std::is_same_v<T, std::string>) {
    candidates = {"a \"text\": with #\\ \t\n\r\x01 \xC3\xA9 and ' in it "};
  } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    candidates = {{"a.*b", "an item: #2"}};
  } else if constexpr (std::is_same_v<T, ByteSize>) {
    candidates = {ByteSize("3MiB"), ByteSize("7GB")};
  } else if constexpr (std::is_same_v<T, TimeSpan>) {
    candidates = {TimeSpan("1-02:03:04"), TimeSpan("1.5")};
  } else if constexpr (std::is_same_v<T, AutoScheme>) {
    candidates = {{3.25, {{2, 64}, {8, -1, Symmetry::kAsym}}, 5, 3, true}};
  } else {
    static_assert(std::is_same_v<T, WeightRules>, "a new type of key needs a value here");
    candidates = {{{"model.layers.1.mlp.up_proj", 8, -1, Symmetry::kAsym, RuleType::kInt},
                   {"a \"b\": \\{c\\}, [d]*\\.e$", 16, {}, {}, RuleType::kFloat},
                   {".*o_proj", {}, 32, {}, {}}}};
  }
  for (const T& candidate : candidates) {
    if (candidate != value && constraint.holds(candidate)) return candidate;
  }
  return std::nullopt;
}

}  // namespace roundtable
