// Escapes and cuts what a file brought, before it reaches a terminal.
#include "io/printable.h"

#include <fmt/format.h>

namespace roundtable {

namespace {
constexpr std::size_t kMaxBytes = 160;  // tensor names of real models are shorter than 100
}

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, kMaxBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  if (text.size() > kMaxBytes) out += "...";
  return out;
}

}  // namespace roundtable
