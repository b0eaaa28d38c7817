// What std::regex takes of the stack (libstdc++ 12, bits/regex_compiler.tcc and regex_executor.tcc):
//
//   compiling  a level a letter, and some a parenthesis: 500 bytes
//   matching   a level a state: 300 bytes. A letter is up to two states, and "a{3}" is as long as "aaa".
//
// Backtracking goes through states again with each letter of the subject, and through those of a part that is repeated
// inside another one for each of its turns. The polynomial matcher goes through each once; it is much slower, and knows
// no back-references.
#include "base/bounded_regex.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"

namespace roundtable {
namespace {

constexpr std::size_t kLongest = 4096;  // letters, counts written out: 2 MB of the usual 8

// Takes the number that `text` begins with, 0 where there is none; too large ones become kLongest + 1.
std::size_t take_number(std::string_view& text) {
  std::size_t number = 0;
  while (!text.empty() && text.front() >= '0' && text.front() <= '9') {
    number = std::min(kLongest + 1, 10 * number + static_cast<std::size_t>(text.front() - '0'));
    text.remove_prefix(1);
  }
  return number;
}

// How often the counts repeat a letter, at most: as if each stood inside the next one.
std::size_t copies_in(std::string_view text) {
  std::size_t copies = 1;
  for (std::size_t brace = text.find('{'); brace != std::string_view::npos; brace = text.find('{')) {
    text.remove_prefix(brace + 1);
    std::size_t count = take_number(text);
    if (text.starts_with(',')) {
      text.remove_prefix(1);
      count = std::max(count + 1, take_number(text));  // {3,}: the last one is repeated
    }
    copies = std::min(kLongest + 1, copies * std::max<std::size_t>(1, count));
  }
  return copies;
}

// Whether more may be repeated than single letters: a quantifier stands behind a parenthesis or another quantifier.
bool repeats_parts(std::string_view text) {
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (std::string_view("*+?{").find(text[i]) == std::string_view::npos) continue;
    if (std::string_view(")*+?}").find(text[i - 1]) != std::string_view::npos) return true;
  }
  return false;
}

}  // namespace

std::shared_ptr<const std::regex> bounded_regex(const std::string& text, const std::string& place) {
  if (text.size() * copies_in(text) > kLongest) {
    throw bad_input(place, fmt::format("is a regular expression of more than {} letters, counts written out", kLongest),
                    "make it shorter, and counts such as {9} smaller");
  }
  auto flags = std::regex::ECMAScript;
  if (repeats_parts(text)) flags |= std::regex_constants::__polynomial;
  return std::make_shared<const std::regex>(text, flags);
}

}  // namespace roundtable
