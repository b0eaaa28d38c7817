// Compiling and matching by PCRE2, which keeps its state on the heap and counts its steps.
#include "base/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/text.h"

namespace roundtable {
namespace {

constexpr std::size_t kMaxBytes = 4096;
constexpr std::uint32_t kMaxSteps = 1'000'000;  // some 50 ms; a layer's name takes a few hundred
constexpr std::uint32_t kMaxHeapKibibytes = 65536;

std::string message_of(int number) {
  char text[256] = "";
  pcre2_get_error_message(number, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
  return text;
}

bool is_about_size(int number) {
  return number == PCRE2_ERROR_PATTERN_STRING_TOO_LONG || number == PCRE2_ERROR_PATTERN_TOO_LARGE ||
         number == PCRE2_ERROR_PARENTHESES_NEST_TOO_DEEP || number == PCRE2_ERROR_QUANTIFIER_TOO_BIG;
}

const pcre2_code* as_code(const std::shared_ptr<const void>& code) {
  return static_cast<const pcre2_code*>(code.get());
}

}  // namespace

Pattern::Pattern(const std::string& text, const std::string& place) : place_(place) {
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> limits(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  pcre2_set_max_pattern_length(limits.get(), kMaxBytes);
  int number = 0;
  PCRE2_SIZE offset = 0;
  // A pattern can ask for UTF by its first letters; names are compared byte by byte.
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                   PCRE2_NEVER_UTF | PCRE2_NEVER_BACKSLASH_C, &number, &offset, limits.get());
  if (!code && is_about_size(number)) {
    throw bad_input(place, fmt::format("is too large a regular expression: {}", message_of(number)),
                    "make it shorter, and counts such as {9} smaller");
  }
  if (!code) {
    const Error error =
        bad_input(place, fmt::format("is not a regular expression: {} (byte {})", message_of(number), offset + 1));
    throw NotAPattern(error.code(), error.what());
  }
  code_ = std::shared_ptr<const void>(code, [](void* mine) { pcre2_code_free(static_cast<pcre2_code*>(mine)); });
}

bool Pattern::is_in(const std::string& subject) const {
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> limits(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  pcre2_set_match_limit(limits.get(), kMaxSteps);
  pcre2_set_heap_limit(limits.get(), kMaxHeapKibibytes);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(as_code(code_), nullptr), pcre2_match_data_free);
  const int result = pcre2_match(as_code(code_), reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), 0, 0,
                                 data.get(), limits.get());
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    throw bad_input(place_, fmt::format("cannot be matched with {}: {}", shown(subject), message_of(result)),
                    "make it simpler");
  }
  return true;
}

}  // namespace roundtable
