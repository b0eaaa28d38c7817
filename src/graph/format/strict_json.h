// What the readers of model.json share beyond JsonObject: lists and maps of a bounded size, names, shapes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "graph/format/manifest.h"
#include "io/json_file.h"

namespace roundtable {

// All throw bad input that begins with `place`.

// Moves the elements of the list `key` out of `object`, where an empty list stays.
std::vector<nlohmann::json> take_list(nlohmann::json& object, const std::string& key, std::size_t most,
                                      const std::string& place);

// Moves the value of `key` out of `object`.
nlohmann::json take(nlohmann::json& object, const std::string& key, const std::string& place);

// The members of an object, at most so many, each with a good name: body(name, value).
void for_each_member(const nlohmann::json& object, std::size_t most, const std::string& place,
                     const std::function<void(const std::string&, const nlohmann::json&)>& body);

// A name is not empty, at most 512 bytes long and without control characters.
std::string get_name(const JsonObject& object, const std::string& key);
void check_name(const std::string& name, const std::string& place);

// {"name": "other name"}.
std::map<std::string, std::string> read_names(const nlohmann::json& object, std::size_t most, const std::string& place);

// The word's meaning; refuses other words.
template <class T>
T get_word(const JsonObject& object, const std::string& key, const std::vector<std::pair<const char*, T>>& words) {
  const std::string word = object.get_string(key);
  std::string known;
  for (const auto& [name, meaning] : words) {
    if (name == word) return meaning;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  object.fail(key, "must be one of " + known, kExportAgain);
}

c10::ScalarType get_dtype(const JsonObject& object, const std::string& key);
std::vector<std::int64_t> get_shape(const JsonObject& object, const std::string& key);

// {"shape": [..], "dtype": "float32"}.
GraphTensorSpec read_graph_tensor_spec(const nlohmann::json& object, const std::string& place);

// Elements of a shape that get_shape() returned.
std::int64_t element_count(const std::vector<std::int64_t>& shape);

}  // namespace roundtable
