// Text for people: values from files made fit for one line of a message, words that were meant, and numbers with units.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace roundtable {

// Whether `bytes` are UTF-8 without control characters other than tab and line ends.
bool is_text(std::string_view bytes);

// Each of these escapes control characters as \x0a, so that the text stays on its line.
std::string escape_control(std::string_view text);  // all else as it is
std::string printable(std::string_view text);       // cut after 160 bytes
std::string shown(std::string_view text);           // in single quotes, cut after some 60 bytes
std::string quoted(std::string_view text);          // in double quotes, with \" and \\ as YAML reads them

// Up to the first line end: LibTorch puts a stack trace behind its messages.
std::string first_line(std::string_view text);

// The candidate that a user who wrote `word` most likely meant; empty if none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);
// "did you mean gguf? ", to begin the last part of an error message; empty without a guess.
std::string did_you_mean(std::string_view guess);

// "1.25 GB" (powers of 1000) and "12.3 s", "5 min", "2.1 h".
std::string human_bytes(std::int64_t bytes);
std::string human_seconds(double seconds);

}  // namespace roundtable
