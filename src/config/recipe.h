// Recipes: the values that auto-round's commands auto-round, auto-round-best, auto-round-light and auto-round-rtn start
// from (auto-round 0.16.1, cli/main.py, RECIPES).
#pragma once

#include <string>
#include <vector>

namespace roundtable {

struct Config;

inline const std::vector<std::string> kRecipes = {"default", "best", "light", "rtn"};

// Sets the keys that a recipe speaks of. Keys that a file or an option gives are set after it, and so win.
void apply_recipe(const std::string& name, Config& config);

}  // namespace roundtable
