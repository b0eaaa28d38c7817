// The best choice within a budget: one of several costs for each item, so that the losses' sum is the least of all
// choices whose bits' sum is within the budget (a multiple-choice knapsack). Exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace roundtable {

struct SchemeCost {
  std::int64_t bits = 0;
  double loss = 0;  // finite
};

// Returns for each item the place of its cost. Of choices with the same sum of losses one with the fewest bits. Each item
// has at least one cost, and those with the fewest bits are within the budget together.
std::vector<std::size_t> choose_within(const std::vector<std::vector<SchemeCost>>& items, std::int64_t budget);

}  // namespace roundtable
