// JSON files, and the reading of keys with errors that name the file and the key.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace roundtable {

// Reads a JSON file of at most 256 MiB. Throws bad input with path, line and column on a syntax error, on a key that
// an object holds twice (parsers disagree on which of the two counts), and on nesting deeper than 256 levels.
nlohmann::json load_json(const std::string& path);

// Writes a file atomically as Hugging Face's tools do: keys sorted, two spaces per level, ASCII only, a newline at the
// end.
void save_json(const std::string& path, const nlohmann::json& json);

// One JSON object whose values are asked for by key and type. Each getter throws bad input,
// "config.json: key 'rope_scaling.factor': must be a number, not \"8\"", if the value is missing, has another type
// or is out of [min, max]. The getters in _or return their fallback if the key is missing or null (Hugging Face's
// configs write null for "not set"), and only then.
class JsonObject {
 public:
  // `place` opens every error; normally the path.
  JsonObject(nlohmann::json object, const std::string& place);
  static JsonObject load(const std::string& path) { return JsonObject(load_json(path), path); }

  // Throws bad input for a key that is none of these.
  void expect_keys(const std::vector<std::string>& known) const;

  // The key is there and its value is not null.
  bool has(const std::string& key) const;

  std::int64_t get_int(const std::string& key, std::int64_t min = kMinInt, std::int64_t max = kMaxInt) const;
  std::int64_t get_int_or(const std::string& key, std::int64_t fallback, std::int64_t min = kMinInt,
                          std::int64_t max = kMaxInt) const;
  // Takes integers too.
  double get_double(const std::string& key, double min = -kInfinity, double max = kInfinity) const;
  double get_double_or(const std::string& key, double fallback, double min = -kInfinity, double max = kInfinity) const;
  std::string get_string(const std::string& key) const;
  std::string get_string_or(const std::string& key, const std::string& fallback) const;
  bool get_bool(const std::string& key) const;
  bool get_bool_or(const std::string& key, bool fallback) const;
  std::vector<std::int64_t> get_ints(const std::string& key, std::int64_t min = kMinInt,
                                     std::int64_t max = kMaxInt) const;
  std::vector<std::string> get_strings(const std::string& key) const;
  // The errors of the inner object name the whole path to it: 'rope_scaling.factor'.
  JsonObject get_object(const std::string& key) const;

  // For a value of several shapes, such as eos_token_id (an integer or a list): the value itself, and the error to
  // throw when none fits.
  const nlohmann::json& json() const { return object_; }
  const std::string& place() const { return place_; }
  [[noreturn]] void fail(const std::string& key, const std::string& problem, const std::string& fix = {}) const;

 private:
  static constexpr std::int64_t kMinInt = std::numeric_limits<std::int64_t>::min();
  static constexpr std::int64_t kMaxInt = std::numeric_limits<std::int64_t>::max();
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  JsonObject(nlohmann::json object, std::string place, std::string prefix);
  const nlohmann::json& at(const std::string& key) const;
  [[noreturn]] void wrong_type(const std::string& key, const char* wanted, const nlohmann::json& found) const;
  std::int64_t to_int(const std::string& key, const nlohmann::json& value, std::int64_t min, std::int64_t max) const;

  nlohmann::json object_;
  std::string place_;
  std::string prefix_;  // "rope_scaling." in an inner object
};

}  // namespace roundtable
