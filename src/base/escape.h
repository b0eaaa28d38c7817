// Text that stays on its line.
#pragma once

#include <string>
#include <string_view>

namespace roundtable {

// Control characters as \x0a; all else as it is.
std::string escape_control(std::string_view text);

}  // namespace roundtable
