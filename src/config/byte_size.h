// Sizes of files as text, as Hugging Face's tools take them: "5GB", "200MB", "1GiB".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "config/constraint.h"

namespace roundtable {

// Units as huggingface_hub 1.x has them (serialization/_base.py, parse_size_to_int: decimal), and the binary ones with
// an i. Nothing for text that is none, for 0 and for what 63 bits do not hold.
std::optional<std::int64_t> parse_byte_size(std::string_view text);

inline Constraint<std::string> byte_size() {
  return {"a size such as 5GB or 500MB", [](const std::string& text) { return parse_byte_size(text).has_value(); }};
}

inline Constraint<std::string> byte_size_or_none() {
  return {"a size such as 1MiB, or nothing",
          [](const std::string& text) { return text.empty() || parse_byte_size(text).has_value(); }};
}

}  // namespace roundtable
