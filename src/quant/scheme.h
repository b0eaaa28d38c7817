// How a weight matrix is quantized: bits, groups and the grid of each group.
#pragma once

#include <cstdint>
#include <tuple>

#include "config/choices.h"

namespace roundtable {

// How many weights share a scale, if the type fixes it; 0 for integers, for which it can be any number.
constexpr std::int64_t group_size_of(WeightType type) {
  return type == WeightType::kInt ? 0 : (type == WeightType::kMxFp4 ? 32 : 16);
}

struct QuantScheme {
  int bits = 4;                     // 2, 3, 4 or 8
  std::int64_t group_size = 128;    // along the input dimension; -1 for one group per row
  bool symmetric = true;
  bool full_range = true;           // symmetric only
  bool fp16_scale = true;           // scales are rounded to half precision; fp32 otherwise
  int min_zero_point = 0;           // asymmetric only: the least zero point that the output format can hold
  WeightType type = WeightType::kInt;
  float global_scale = 0;           // kNvFp4 only: a stored scale's E4M3 float over the scale itself; 0: not yet known

  bool operator==(const QuantScheme& other) const {
    const auto all = [](const QuantScheme& s) {
      return std::tie(s.bits, s.group_size, s.symmetric, s.full_range, s.fp16_scale, s.min_zero_point, s.type,
                      s.global_scale);
    };
    return all(*this) == all(other);
  }

  // Groups in a row of `columns` weights; the last one is shorter if group_size does not divide it.
  std::int64_t groups(std::int64_t columns) const {
    const std::int64_t size = group_columns(columns);
    return (columns + size - 1) / size;
  }
  std::int64_t group_columns(std::int64_t columns) const {
    return group_size < 0 || group_size > columns ? columns : group_size;
  }
};

}  // namespace roundtable
