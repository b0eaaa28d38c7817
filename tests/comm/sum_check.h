// Whether a sum over ranks adds. For communicators of both memories, and for one that does nothing, which must fail.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace roundtable::testing {

// `sum` is to leave the sum over all ranks in its argument, in which each rank has numbers of its own. True if it does;
// from two ranks on nothing else passes, for no rank's own numbers are the sum. Collective as `sum` is.
inline bool adds_over_ranks(int rank, int ranks, const std::function<void(std::vector<float>&)>& sum) {
  const auto number = [](std::size_t i) { return static_cast<float>(i % 1000 + 1); };
  std::vector<float> data(100000);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(rank + 1) * number(i);
  sum(data);
  const auto parts = static_cast<float>(ranks * (ranks + 1) / 2);
  for (std::size_t i = 0; i < data.size(); ++i) {
    if (data[i] != parts * number(i)) return false;
  }
  return true;
}

}  // namespace roundtable::testing
