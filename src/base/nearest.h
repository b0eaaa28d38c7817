// The guess behind "did you mean": which of the known names is nearest to a word that is not one of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace roundtable {

// The candidate that a user who wrote `word` most likely meant; empty if none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

// "did you mean gguf? ", to begin the last part of an error message; empty without a guess.
std::string did_you_mean(std::string_view guess);

}  // namespace roundtable
