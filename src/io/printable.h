// Text from a file, made fit for one line of an error: control characters escaped, long text cut.
#pragma once

#include <string>
#include <string_view>

namespace roundtable {

std::string printable(std::string_view text);

}  // namespace roundtable
