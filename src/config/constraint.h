// Which values a key takes: a test, and the words for it in `--help` and in error messages.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "config/choices.h"
#include "config/user_path.h"

namespace roundtable {

template <class T>
struct Constraint {
  std::string values;  // fits after "expected": "a whole number from 1 to 8"
  std::function<bool(const T&)> holds;
  // What the key gets from a value that holds; without it, the value itself. Throws Error that begins with `place`.
  std::function<T(const T& value, const std::string& place)> settle = {};
};

inline Constraint<bool> true_or_false() {
  return {"true or false", [](bool) { return true; }};
}

// Of a file or folder, as a user writes it; see path_from_user().
inline Constraint<std::string> path_or_none() {
  return {"a path", [](const std::string&) { return true; }, path_from_user};
}

// "2, 3 or 4"
template <class T>
std::string alternatives(const std::vector<T>& items) {
  std::string words;
  for (std::size_t i = 0; i < items.size(); ++i) {
    words += fmt::format("{}{}", i == 0 ? "" : i + 1 == items.size() ? " or " : ", ", items[i]);
  }
  return words;
}

template <class T>
Constraint<T> one_of(const std::vector<T>& values) {
  return {alternatives(values),
          [values](const T& value) { return std::find(values.begin(), values.end(), value) != values.end(); }};
}

// An enum of choices.h.
template <class E>
concept IsChoice = kIsChoice<E>;

// One of the enum's words; a field of this type holds no other value.
template <IsChoice E>
Constraint<E> choice() {
  std::vector<std::string_view> words;
  for (const Choice<E>& one : kChoices<E>) words.push_back(one.word);
  return {alternatives(words), [](E) { return true; }};
}

inline Constraint<std::int64_t> whole_from(std::int64_t least, std::int64_t most) {
  return {fmt::format("a whole number from {} to {}", least, most),
          [=](std::int64_t value) { return least <= value && value <= most; }};
}

inline Constraint<std::int64_t> whole_from(std::int64_t least) {
  return {fmt::format("a whole number of at least {}", least), [=](std::int64_t value) { return least <= value; }};
}

// `special` is outside the range and has a meaning of its own.
inline Constraint<std::int64_t> special_or_from(std::int64_t special, std::int64_t least, std::int64_t most) {
  const auto range = whole_from(least, most);
  return {fmt::format("{} or {}", special, range.values),
          [=](std::int64_t value) { return value == special || range.holds(value); }};
}

inline Constraint<std::string> some_text() {
  return {"text that is not empty", [](const std::string& value) { return !value.empty(); }};
}

// least <= value < bound
inline Constraint<double> finite_in(double least, double bound) {
  return {fmt::format("a number from {} to below {}", least, bound),
          [=](double value) { return least <= value && value < bound; }};
}

// least <= value <= most
inline Constraint<double> finite_within(double least, double most) {
  return {fmt::format("a number from {} to {}", least, most),
          [=](double value) { return least <= value && value <= most; }};
}

inline Constraint<double> finite_from(double least) {
  return {fmt::format("a number of at least {}", least),
          [=](double value) { return std::isfinite(value) && value >= least; }};
}

// No item twice.
template <class T>
Constraint<std::vector<T>> list_or_none_of(const Constraint<T>& item) {
  return {fmt::format("a list of different items, each {}", item.values), [=](std::vector<T> items) {
            if (!std::all_of(items.begin(), items.end(), item.holds)) return false;
            std::sort(items.begin(), items.end());
            return std::adjacent_find(items.begin(), items.end()) == items.end();
          }};
}

// At least one item, no item twice.
template <class T>
Constraint<std::vector<T>> list_of(const Constraint<T>& item) {
  const auto list = list_or_none_of(item);
  return {list.values, [=](const std::vector<T>& items) { return !items.empty() && list.holds(items); }};
}

}  // namespace roundtable
