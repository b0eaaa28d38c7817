// Regular expressions that come from a file or an option: none of them overflows the stack.
#pragma once

#include <memory>
#include <regex>
#include <string>

namespace roundtable {

// Compiles `text` (ECMAScript's) for subjects as short as a layer's name. Throws Error (kBadInput), opened by `place`,
// where it is too long, and std::regex_error where it is no regular expression or has a back-reference beside a
// repeated part.
std::shared_ptr<const std::regex> bounded_regex(const std::string& text, const std::string& place);

}  // namespace roundtable
