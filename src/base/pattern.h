// Regular expressions that come from a file or an option: none of them takes the stack, the memory or the time of a
// run.
#pragma once

#include <memory>
#include <string>

#include "base/error.h"

namespace roundtable {

// Thrown for text that is no regular expression; a reader that takes it for a plain name then can tell it from others.
class NotAPattern : public Error {
 public:
  using Error::Error;
};

// A regular expression as PCRE2 reads it, which is nearly as Python's `re` does. Copies share what is compiled.
class Pattern {
 public:
  // Throws, opened by `place`: NotAPattern, or Error (kBadInput) where `text` is too large: more than 4096 bytes or 250
  // parentheses inside each other, or counts that make it more than 64 kB (as PCRE2 is usually built).
  Pattern(const std::string& text, const std::string& place);

  // Whether it matches anywhere in `subject`. Throws Error (kBadInput) where that takes too many steps. Thread-safe.
  bool is_in(const std::string& subject) const;

 private:
  std::string place_;
  std::shared_ptr<const void> code_;
};

}  // namespace roundtable
