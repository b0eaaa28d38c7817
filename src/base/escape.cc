// Escaping control characters.
#include "base/escape.h"

#include <fmt/format.h>

namespace roundtable {

std::string escape_control(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace roundtable
