// Consecutive calibration samples, and how a set is cut into parts.
#pragma once

#include <cstdint>

namespace roundtable {

// A half-open range of sample indices.
struct SampleRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
  bool contains(std::int64_t sample) const { return sample >= begin && sample < end; }
};

// Part `index` of `parts` nearly equal, consecutive parts of [0, n).
inline SampleRange part_of(std::int64_t n, std::int64_t parts, std::int64_t index) {
  return {n * index / parts, n * (index + 1) / parts};
}

}  // namespace roundtable
