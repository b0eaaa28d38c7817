// Text as error messages show it, and the check that input is text at all.
#pragma once

#include <string>
#include <string_view>

namespace roundtable {

// UTF-8 without control characters other than tab and line ends.
bool is_text(std::string_view bytes);

// One line, in single quotes: control characters escaped, cut after some 60 bytes.
std::string shown(std::string_view text);

}  // namespace roundtable
