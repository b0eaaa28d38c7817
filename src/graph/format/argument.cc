// Arguments from JSON.
#include "graph/format/argument.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "graph/format/limits.h"
#include "graph/format/manifest.h"

namespace roundtable {
namespace {

using nlohmann::json;

constexpr std::string_view kFloatTag = "float";
constexpr int kMaxDepth = 2;  // lists in lists

[[noreturn]] void refuse(const std::string& place, const json& value, const char* wanted) {
  const std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  throw bad_input(place, fmt::format("{} is not {}", shown(text), wanted), kExportAgain);
}

std::string text_of(const json& value, const std::string& place) {
  if (!value.is_string()) refuse(place, value, "text");
  return value.get<std::string>();
}

template <class T, std::size_t kN>
T named(const std::pair<const char*, T> (&table)[kN], const json& value, const std::string& place, const char* wanted) {
  const std::string name = text_of(value, place);
  for (const auto& [known, meaning] : table) {
    if (known == name) return meaning;
  }
  refuse(place, value, wanted);
}

constexpr std::pair<const char*, double> kFloats[] = {{"inf", std::numeric_limits<double>::infinity()},
                                                      {"-inf", -std::numeric_limits<double>::infinity()},
                                                      {"nan", std::numeric_limits<double>::quiet_NaN()}};
constexpr std::pair<const char*, c10::Layout> kLayouts[] = {{"strided", c10::kStrided}};
constexpr std::pair<const char*, c10::MemoryFormat> kMemoryFormats[] = {
    {"preserve_format", c10::MemoryFormat::Preserve},
    {"contiguous_format", c10::MemoryFormat::Contiguous},
    {"channels_last", c10::MemoryFormat::ChannelsLast}};

// An object with a single key says which kind of argument it is.
Argument read_tagged_argument(const json& object, std::int64_t values, const std::string& place) {
  if (object.size() != 1) refuse(place, object, "an argument: an object with one key");
  const std::string tag = object.begin().key();
  const json& value = object.begin().value();
  if (tag == "v") {
    const bool known = value.is_number_unsigned() && value.get<std::uint64_t>() < static_cast<std::uint64_t>(values);
    if (!known) refuse(place, value, fmt::format("a value below {}", values).c_str());
    return {Argument::Value{value.get<std::int64_t>()}};
  }
  if (tag == kFloatTag) return {named(kFloats, value, place, "inf, -inf or nan")};
  if (tag == "dtype") {
    const std::string name = text_of(value, place);
    if (name == "complex64") return {c10::ScalarType::ComplexFloat};
    if (const auto dtype = parse_dtype(name)) return {*dtype};
    refuse(place, value, "a dtype");
  }
  if (tag == "device") {
    if (value != true) refuse(place, object, "a device: that is {\"device\": true}");
    return {Argument::Device{}};
  }
  if (tag == "layout") return {named(kLayouts, value, place, "a layout")};
  if (tag == "memory_format") return {named(kMemoryFormats, value, place, "a memory format")};
  refuse(place, object, "an argument");
}

Argument read_at(const json& value, std::int64_t values, const std::string& place, int depth) {
  switch (value.type()) {
    case json::value_t::null:
      return {Argument::None{}};
    case json::value_t::boolean:
      return {value.get<bool>()};
    case json::value_t::number_integer:
      return {value.get<std::int64_t>()};
    case json::value_t::number_unsigned:
      if (!std::in_range<std::int64_t>(value.get<std::uint64_t>())) refuse(place, value, "a 64-bit integer");
      return {value.get<std::int64_t>()};
    case json::value_t::number_float:
      return {value.get<double>()};
    case json::value_t::string:
      return {value.get<std::string>()};
    case json::value_t::object:
      return read_tagged_argument(value, values, place);
    default:
      break;
  }
  if (depth == kMaxDepth) throw bad_input(place, "lists are nested more than two levels deep", kExportAgain);
  if (value.size() > kMaxListLength) {
    throw bad_input(place, fmt::format("a list holds more than {} elements", kMaxListLength), kExportAgain);
  }
  Argument::List list;
  list.reserve(value.size());
  for (const json& part : value) list.push_back(read_at(part, values, place, depth + 1));
  return {std::move(list)};
}

}  // namespace

std::optional<c10::ScalarType> parse_dtype(const std::string& name) {
  static constexpr std::pair<const char*, c10::ScalarType> kDtypes[] = {
      {"float32", c10::ScalarType::Float},     {"float64", c10::ScalarType::Double},
      {"bfloat16", c10::ScalarType::BFloat16}, {"float16", c10::ScalarType::Half},
      {"int64", c10::ScalarType::Long},        {"int32", c10::ScalarType::Int},
      {"int16", c10::ScalarType::Short},       {"int8", c10::ScalarType::Char},
      {"uint8", c10::ScalarType::Byte},        {"bool", c10::ScalarType::Bool}};
  for (const auto& [known, dtype] : kDtypes) {
    if (known == name) return dtype;
  }
  return std::nullopt;
}

Argument read_argument(const json& value, std::int64_t values, const std::string& place) {
  return read_at(value, values, place, 0);
}

}  // namespace roundtable
