// Escapes and cuts what a file brought, before it reaches a terminal.
#include "io/printable.h"

#include "base/escape.h"

namespace roundtable {

namespace {
constexpr std::size_t kMaxBytes = 160;  // tensor names of real models are shorter than 100
}

std::string printable(std::string_view text) {
  return escape_control(text.substr(0, kMaxBytes)) + (text.size() > kMaxBytes ? "..." : "");
}

}  // namespace roundtable
