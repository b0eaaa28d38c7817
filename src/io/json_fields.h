// Structs to JSON objects and back, from one list of fields per struct, so that the two directions cannot differ:
//
//   struct Point {
//     double x = 0;
//     std::optional<std::string> name;
//     template <class Fields>
//     void fields(Fields& f) { f("x", x); f("name", name); }
//   };
//
// Every field is written, an empty optional as null. Reading is strict: a missing key, or a value of another type, is
// an Error (kBadInput) that names the key; keys that the struct does not know are passed over. A number that is not
// finite is null in JSON and is read back as NaN.
//
// A set of such structs, each with its `kType`, is read as a std::variant: see tagged_json() and read_tagged().
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace roundtable {

class JsonFieldWriter;
class JsonFieldReader;

template <class T>
concept HasFields = requires(T value, JsonFieldWriter& writer) {
  value.fields(writer);
};

// The value as JSON. A struct is taken by its fields.
template <class T>
nlohmann::json json_of(const T& value);

class JsonFieldWriter {
 public:
  template <class T>
  void operator()(const char* key, const T& value) {
    object[key] = json_of(value);
  }
  nlohmann::json object = nlohmann::json::object();
};

namespace detail {

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct IsMap : std::false_type {};
template <class T>
struct IsMap<std::map<std::string, T>> : std::true_type {};

}  // namespace detail

template <class T>
nlohmann::json json_of(const T& value) {
  if constexpr (std::is_same_v<T, nlohmann::json>) {
    return value;
  } else if constexpr (detail::IsOptional<T>::value) {
    return value ? json_of(*value) : nlohmann::json();
  } else if constexpr (detail::IsVector<T>::value) {
    nlohmann::json array = nlohmann::json::array();
    for (const auto& item : value) array.push_back(json_of(item));
    return array;
  } else if constexpr (detail::IsMap<T>::value) {
    nlohmann::json object = nlohmann::json::object();
    for (const auto& [key, item] : value) object[key] = json_of(item);
    return object;
  } else if constexpr (std::is_floating_point_v<T>) {
    return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json();
  } else if constexpr (HasFields<T>) {
    T copy = value;
    JsonFieldWriter writer;
    copy.fields(writer);
    return std::move(writer.object);
  } else {
    return nlohmann::json(value);
  }
}

// Reads fields from `object`; `place` begins the line of every error.
class JsonFieldReader {
 public:
  JsonFieldReader(const nlohmann::json& object, std::string place) : object_(object), place_(std::move(place)) {}

  template <class T>
  void operator()(const char* key, T& value) {
    const auto found = object_.find(key);
    if (found == object_.end()) throw bad_input(place_, fmt::format("key '{}' is missing", key));
    read(key, *found, value);
  }

 private:
  template <class T>
  void read(const std::string& key, const nlohmann::json& json, T& value) const {
    if constexpr (std::is_same_v<T, nlohmann::json>) {
      value = json;
    } else if constexpr (detail::IsOptional<T>::value) {
      value.reset();
      if (!json.is_null()) read(key, json, value.emplace());
    } else if constexpr (detail::IsVector<T>::value) {
      check(key, json.is_array(), "a list");
      value.assign(json.size(), {});
      for (std::size_t i = 0; i < json.size(); ++i) read(fmt::format("{}[{}]", key, i), json[i], value[i]);
    } else if constexpr (detail::IsMap<T>::value) {
      check(key, json.is_object(), "an object");
      value.clear();
      for (const auto& [name, item] : json.items()) read(key + "." + name, item, value[name]);
    } else if constexpr (std::is_same_v<T, bool>) {
      check(key, json.is_boolean(), "true or false");
      value = json.get<bool>();
    } else if constexpr (std::is_floating_point_v<T>) {
      check(key, json.is_number() || json.is_null(), "a number");
      value = json.is_null() ? std::numeric_limits<T>::quiet_NaN() : json.get<T>();
    } else if constexpr (std::is_integral_v<T>) {
      value = whole<T>(key, json);
    } else if constexpr (HasFields<T>) {
      check(key, json.is_object(), "an object");
      JsonFieldReader inner(json, fmt::format("{}: {}", place_, key));
      value.fields(inner);
    } else {
      check(key, json.is_string(), "text");
      value = json.get<std::string>();
    }
  }

  template <class T>
  T whole(const std::string& key, const nlohmann::json& json) const {
    const bool fits = json.is_number_unsigned()
                          ? std::in_range<T>(json.get<std::uint64_t>())
                          : json.is_number_integer() && std::in_range<T>(json.get<std::int64_t>());
    check(key, fits, fmt::format("a whole number of at most {}", std::numeric_limits<T>::max()));
    return json.get<T>();
  }

  void check(const std::string& key, bool fits, const std::string& wanted) const {
    if (!fits) throw bad_input(place_, fmt::format("key '{}' must be {}", key, wanted));
  }

  const nlohmann::json& object_;
  std::string place_;
};

// The struct that `object` holds. Throws Error (kBadInput), opened by `place`, where a key is missing or of another
// type.
template <HasFields T>
T read_fields(const nlohmann::json& object, const std::string& place) {
  if (!object.is_object()) throw bad_input(place, "is not a JSON object");
  JsonFieldReader reader(object, place);
  T value;
  value.fields(reader);
  return value;
}

// {`tag`: T::kType, fields...} of the struct that `value` holds.
template <class... Types>
nlohmann::json tagged_json(const std::variant<Types...>& value, const char* tag) {
  return std::visit(
      [&]<class T>(const T& held) {
        nlohmann::json object = json_of(held);
        object[tag] = T::kType;
        return object;
      },
      value);
}

// The inverse. Nothing where `object` names a type that the variant does not have; throws as read_fields() otherwise.
template <class Variant>
std::optional<Variant> read_tagged(const nlohmann::json& object, const char* tag, const std::string& place) {
  const auto found = object.find(tag);
  if (found == object.end() || !found->is_string()) return std::nullopt;
  const std::string type = found->get<std::string>();
  std::optional<Variant> value;
  const auto try_type = [&]<class T>() {
    if (type == T::kType) value = read_fields<T>(object, place);
  };
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (try_type.template operator()<std::variant_alternative_t<I, Variant>>(), ...);
  }
  (std::make_index_sequence<std::variant_size_v<Variant>>());
  return value;
}

}  // namespace roundtable
