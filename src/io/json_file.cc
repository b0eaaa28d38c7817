// JSON through nlohmann-json, with the limits and the error texts that it leaves to its callers.
#include "io/json_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "io/file.h"

namespace roundtable {

namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{256} << 20;
constexpr int kMaxDepth = 256;  // nlohmann's writer and comparison recurse

// Sees each event of the library's parser and refuses what the library accepts and we do not.
class StrictObjects {
 public:
  explicit StrictObjects(const std::string& path) : path_(path) {}

  bool operator()(int depth, json::parse_event_t event, const json& parsed) {
    if (depth > kMaxDepth) throw bad_input(path_, fmt::format("is nested more than {} levels deep", kMaxDepth));
    if (event == json::parse_event_t::object_start) keys_.emplace_back();
    if (event == json::parse_event_t::object_end) keys_.pop_back();
    if (event == json::parse_event_t::key && !keys_.back().insert(parsed.get<std::string>()).second) {
      throw bad_input(path_, fmt::format("key '{}' occurs twice", printable(parsed.get<std::string>())),
                      "remove one of them");
    }
    return true;
  }

 private:
  std::string path_;
  std::vector<std::set<std::string>> keys_;  // one set per open object
};

// "line 3, column 7" of the byte at `position`, counted from 1 as in an editor.
std::string place_in(std::string_view text, std::size_t position) {
  const std::string_view before = text.substr(0, std::min(position, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t newline = before.rfind('\n');
  const std::size_t column = newline == std::string_view::npos ? before.size() + 1 : before.size() - newline;
  return fmt::format("line {}, column {}", line, column);
}

// The library's reason without its error number, its position and the text that it read last, which may be long.
// "[json...101] parse error at line 1, column 2: syntax error while parsing value - invalid literal; last read: 'x'"
std::string reason_of(std::string_view what) {
  const std::size_t dash = what.find(" - ");
  if (dash != std::string_view::npos) what.remove_prefix(dash + 3);
  return printable(what.substr(0, what.find("; last read")));
}

std::string shown_json(const json& value) {
  return printable(value.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 200));
}

}  // namespace

nlohmann::json load_json(const std::string& path) {
  const std::string text = read_text_file(path, kMaxFileBytes);
  try {
    return json::parse(text, StrictObjects(path));
  } catch (const json::parse_error& error) {
    // error.byte counts from 1 and is that of the last byte read.
    throw bad_input(
        path, fmt::format("is not valid JSON at {} (byte {}): {}", place_in(text, error.byte > 0 ? error.byte - 1 : 0),
                          error.byte, reason_of(error.what())));
  } catch (const json::exception& error) {  // a number beyond the range of a double
    throw bad_input(path, fmt::format("is not valid JSON: {}", reason_of(error.what())));
  }
}

void save_json(const std::string& path, const nlohmann::json& json) {
  std::string text;
  try {
    text = json.dump(2, ' ', true) + "\n";
  } catch (const nlohmann::json::type_error& error) {
    throw bad_input(path, fmt::format("cannot be written as JSON: {}", reason_of(error.what())));
  }
  write_file_atomically(path, [&text](OutputFile& out) { out.write(text.data(), text.size()); });
}

JsonObject::JsonObject(nlohmann::json object, const std::string& place) : JsonObject(std::move(object), place, "") {}

JsonObject::JsonObject(nlohmann::json object, std::string place, std::string prefix)
    : object_(std::move(object)), place_(std::move(place)), prefix_(std::move(prefix)) {
  if (!object_.is_object()) throw bad_input(place_, fmt::format("must be a JSON object, not {}", shown_json(object_)));
}

void JsonObject::expect_keys(const std::vector<std::string>& known) const {
  for (const auto& [key, value] : object_.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    fail(printable(key), "is unknown", did_you_mean(nearest(key, known)) + "remove it");
  }
}

bool JsonObject::has(const std::string& key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

void JsonObject::fail(const std::string& key, const std::string& problem, const std::string& fix) const {
  throw bad_input(fmt::format("{}: key '{}{}'", place_, prefix_, key), problem, fix);
}

const nlohmann::json& JsonObject::at(const std::string& key) const {
  const auto found = object_.find(key);
  if (found == object_.end()) fail(key, "is missing");
  return *found;
}

void JsonObject::wrong_type(const std::string& key, const char* wanted, const nlohmann::json& found) const {
  fail(key, fmt::format("must be {}, not {}", wanted, shown_json(found)));
}

std::int64_t JsonObject::to_int(const std::string& key, const nlohmann::json& value, std::int64_t min,
                                std::int64_t max) const {
  if (!value.is_number_integer()) wrong_type(key, "an integer", value);
  const bool too_big = value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(kMaxInt);
  const std::int64_t number = too_big ? kMaxInt : value.get<std::int64_t>();
  if (number < min || number > max || too_big) {
    fail(key, max == kMaxInt ? fmt::format("is {}, and must be at least {} and fit 64 bits", shown_json(value), min)
                             : fmt::format("is {}, and must lie in [{}, {}]", shown_json(value), min, max));
  }
  return number;
}

std::int64_t JsonObject::get_int(const std::string& key, std::int64_t min, std::int64_t max) const {
  return to_int(key, at(key), min, max);
}

std::int64_t JsonObject::get_int_or(const std::string& key, std::int64_t fallback, std::int64_t min,
                                    std::int64_t max) const {
  return has(key) ? get_int(key, min, max) : fallback;
}

double JsonObject::get_double(const std::string& key, double min, double max) const {
  const nlohmann::json& value = at(key);
  if (!value.is_number()) wrong_type(key, "a number", value);
  const double number = value.get<double>();
  if (number < min || number > max) fail(key, fmt::format("is {}, and must lie in [{}, {}]", number, min, max));
  return number;
}

double JsonObject::get_double_or(const std::string& key, double fallback, double min, double max) const {
  return has(key) ? get_double(key, min, max) : fallback;
}

std::string JsonObject::get_string(const std::string& key) const {
  const nlohmann::json& value = at(key);
  if (!value.is_string()) wrong_type(key, "a string", value);
  return value.get<std::string>();
}

std::string JsonObject::get_string_or(const std::string& key, const std::string& fallback) const {
  return has(key) ? get_string(key) : fallback;
}

bool JsonObject::get_bool(const std::string& key) const {
  const nlohmann::json& value = at(key);
  if (!value.is_boolean()) wrong_type(key, "true or false", value);
  return value.get<bool>();
}

bool JsonObject::get_bool_or(const std::string& key, bool fallback) const {
  return has(key) ? get_bool(key) : fallback;
}

std::vector<std::int64_t> JsonObject::get_ints(const std::string& key, std::int64_t min, std::int64_t max) const {
  const nlohmann::json& value = at(key);
  if (!value.is_array()) wrong_type(key, "a list of integers", value);
  std::vector<std::int64_t> numbers;
  for (const auto& element : value) numbers.push_back(to_int(key, element, min, max));
  return numbers;
}

std::vector<std::string> JsonObject::get_strings(const std::string& key) const {
  const nlohmann::json& value = at(key);
  if (!value.is_array()) wrong_type(key, "a list of strings", value);
  std::vector<std::string> strings;
  for (const auto& element : value) {
    if (!element.is_string()) wrong_type(key, "a list of strings", value);
    strings.push_back(element.get<std::string>());
  }
  return strings;
}

JsonObject JsonObject::get_object(const std::string& key) const {
  const nlohmann::json& value = at(key);
  if (!value.is_object()) wrong_type(key, "an object", value);
  return JsonObject(value, place_, prefix_ + key + ".");
}

}  // namespace roundtable
