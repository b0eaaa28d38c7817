// The version of this program.
#pragma once

#include <string_view>

namespace roundtable {

// "0.1.0", as `roundtable --version` and the records of a run name it.
std::string_view program_version();

}  // namespace roundtable
