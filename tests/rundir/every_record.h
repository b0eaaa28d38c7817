// One of each record and event, every field filled with a value of its own: for tests of the schema.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "base/hash.h"
#include "io/json_fields.h"
#include "rundir/records.h"

namespace roundtable::testing {

// Gives each field that it visits another value than the ones before.
class Filler {
 public:
  template <class T>
  void operator()(const char*, T& value) {
    fill(value);
  }

 private:
  template <class T>
  void fill(T& value) {
    if constexpr (std::is_same_v<T, nlohmann::json>) {
      value = {{"part", next_++}};
    } else if constexpr (detail::IsOptional<T>::value) {
      fill(value.emplace());
    } else if constexpr (detail::IsVector<T>::value) {
      value.resize(2);
      for (auto& item : value) fill(item);
    } else if constexpr (detail::IsMap<T>::value) {
      fill(value["key-" + std::to_string(next_)]);
    } else if constexpr (HasFields<T>) {
      value.fields(*this);
    } else if constexpr (std::is_same_v<T, bool>) {
      value = true;
    } else if constexpr (std::is_same_v<T, std::string>) {
      value = "text-" + std::to_string(next_++);
    } else {
      value = static_cast<T>(next_++) + static_cast<T>(std::is_floating_point_v<T> ? 0.5 : 0);
    }
  }

  int next_ = 1;
};

// A journal's record with any text as its payload, checksum and all (rundir/journal.h).
inline std::string framed(const std::string& payload) {
  const auto size = static_cast<std::uint32_t>(payload.size());
  const std::uint32_t mirror = ~size;
  const std::uint64_t checksum = xxh3_64(payload.data(), payload.size());
  std::string bytes(reinterpret_cast<const char*>(&size), sizeof(size));
  bytes.append(reinterpret_cast<const char*>(&mirror), sizeof(mirror));
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  return bytes + payload;
}

// Every alternative of a variant, filled.
template <class Variant>
std::vector<Variant> one_of_each() {
  std::vector<Variant> all;
  Filler filler;
  const auto add = [&]<class T>() {
    T value;
    value.fields(filler);
    all.push_back(std::move(value));
  };
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (add.template operator()<std::variant_alternative_t<I, Variant>>(), ...);
  }
  (std::make_index_sequence<std::variant_size_v<Variant>>());
  return all;
}

}  // namespace roundtable::testing
