// Bounded lists, maps, names and shapes.
#include "graph/format/strict_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "graph/format/limits.h"

namespace roundtable {

using nlohmann::json;

json take(json& object, const std::string& key, const std::string& place) {
  const auto found = object.find(key);
  if (found == object.end()) throw bad_input(fmt::format("{}: key '{}'", place, key), "is missing", kExportAgain);
  return std::exchange(*found, nullptr);
}

std::vector<json> take_list(json& object, const std::string& key, std::size_t most, const std::string& place) {
  json list = take(object, key, place);
  const std::string at = fmt::format("{}: key '{}'", place, key);
  if (!list.is_array()) throw bad_input(at, "must be a list", kExportAgain);
  if (list.size() > most) {
    throw bad_input(at, fmt::format("holds {} elements, more than {}", list.size(), most), kExportAgain);
  }
  return std::move(list.get_ref<json::array_t&>());
}

void for_each_member(const json& object, std::size_t most, const std::string& place,
                     const std::function<void(const std::string&, const json&)>& body) {
  if (!object.is_object()) throw bad_input(place, "must be an object", kExportAgain);
  if (object.size() > most) {
    throw bad_input(place, fmt::format("holds {} members, more than {}", object.size(), most), kExportAgain);
  }
  for (const auto& [name, value] : object.items()) {
    check_name(name, place);
    body(name, value);
  }
}

void check_name(const std::string& name, const std::string& place) {
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  if (name.empty() || name.size() > kMaxNameBytes || std::any_of(name.begin(), name.end(), is_control)) {
    throw bad_input(
        place,
        fmt::format("{} is no name: names have 1 to {} bytes and no control characters", shown(name), kMaxNameBytes),
        kExportAgain);
  }
}

std::string get_name(const JsonObject& object, const std::string& key) {
  std::string name = object.get_string(key);
  check_name(name, fmt::format("{}: key '{}'", object.place(), key));
  return name;
}

std::map<std::string, std::string> read_names(const json& object, std::size_t most, const std::string& place) {
  std::map<std::string, std::string> names;
  for_each_member(object, most, place, [&](const std::string& name, const json& value) {
    if (!value.is_string()) throw bad_input(place, fmt::format("{} must be text", shown(name)), kExportAgain);
    names[name] = value.get<std::string>();
  });
  return names;
}

c10::ScalarType get_dtype(const JsonObject& object, const std::string& key) {
  const auto dtype = parse_dtype(object.get_string(key));
  if (!dtype) object.fail(key, "is no dtype that a graph may have", kExportAgain);
  return *dtype;
}

std::vector<std::int64_t> get_shape(const JsonObject& object, const std::string& key) {
  std::vector<std::int64_t> shape = object.get_ints(key, 0, kMaxSize);
  if (shape.size() > kMaxDimensions) {
    object.fail(key, fmt::format("has more than {} dimensions", kMaxDimensions), kExportAgain);
  }
  // Without the zeros: an empty tensor of absurd sizes is refused too, and no product below overflows.
  std::int64_t elements = 1;
  for (const std::int64_t size : shape) {
    if (size > 0 && (__builtin_mul_overflow(elements, size, &elements) || elements >= kMaxElements)) {
      object.fail(key, "has too many elements", kExportAgain);
    }
  }
  return shape;
}

GraphTensorSpec read_graph_tensor_spec(const json& json_object, const std::string& place) {
  const JsonObject object(json_object, place);
  object.expect_keys({"shape", "dtype"});
  return {get_shape(object, "shape"), get_dtype(object, "dtype")};
}

std::int64_t element_count(const std::vector<std::int64_t>& shape) {
  std::int64_t elements = 1;
  for (const std::int64_t size : shape) elements *= size;
  return elements;
}

}  // namespace roundtable
