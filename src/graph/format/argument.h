// An argument of a node as the file has it, before it is known what the operator takes there.
#pragma once

#include <c10/core/Layout.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace roundtable {

struct Argument {
  struct None {};
  struct Value {
    std::int64_t id;
  };
  struct Device {};  // the one that the graph runs on
  using List = std::vector<Argument>;

  std::variant<None, bool, std::int64_t, double, std::string, Value, c10::ScalarType, Device, c10::Layout,
               c10::MemoryFormat, List>
      is;

  // The value that it names, if it names one itself.
  std::optional<std::int64_t> value() const {
    const auto* found = std::get_if<Value>(&is);
    return found == nullptr ? std::nullopt : std::optional(found->id);
  }

  // Calls body(id) for every value that it names, in lists too.
  template <class Body>
  void for_each_value(const Body& body) const {
    if (const auto id = value()) body(*id);
    if (const auto* list = std::get_if<List>(&is)) {
      for (const Argument& part : *list) part.for_each_value(body);
    }
  }
};

// Throws bad input, opened by `place`, for what FORMAT.md does not know. Values are below `values`.
Argument read_argument(const nlohmann::json& json, std::int64_t values, const std::string& place);

// "float32" and the like; nothing for a dtype that FORMAT.md does not name.
std::optional<c10::ScalarType> parse_dtype(const std::string& name);

}  // namespace roundtable
