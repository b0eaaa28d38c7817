// What the CPU's kernels share: rows of a weight in fp32, and templates for usual widths of groups.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "base/simd/bf16_rows.h"
#include "quant/fake_quant_kernels.h"

namespace roundtable::cpu {

template <std::int64_t kWidth>
using Width = std::integral_constant<std::int64_t, kWidth>;

// Rows whose grids are made at a time: a row may have few groups.
inline std::int64_t rows_at_once(const WeightArrays& a) { return std::max<std::int64_t>(1, 16384 / a.columns); }

// n numbers of `room`, which grows if it has fewer.
template <class T>
T* at_least(std::vector<T>& room, std::int64_t n) {
  if (room.size() < static_cast<std::size_t>(n)) room.resize(static_cast<std::size_t>(n));
  return room.data();
}

// n weights from `first` on in fp32: where they lie, or in `room`.
inline const float* wide_weights(const WeightArrays& a, std::int64_t first, std::int64_t n, std::vector<float>& room) {
  if (!a.weight_is_bf16) return static_cast<const float*>(a.weight) + first;
  float* wide = at_least(room, n);
  widen_row(static_cast<const std::uint16_t*>(a.weight) + first, n, wide);
  return wide;
}

// Calls body(kType, kWidth), as types, for what the weight and its scheme are.
template <class Body>
void with_kinds(const WeightArrays& a, const QuantScheme& scheme, const Body& body) {
  const std::int64_t width = scheme.group_columns(a.columns);
  const auto is = [&](std::int64_t usual) { return width == usual && a.columns % usual == 0; };
  with_type(scheme, [&](auto type) {
    if constexpr (type() == WeightType::kInt) {
      if (is(64)) return body(type, Width<64>());
      if (is(128)) return body(type, Width<128>());
    } else {
      if (is(16)) return body(type, Width<16>());
      if (is(32)) return body(type, Width<32>());
    }
    body(type, Width<0>());
  });
}

}  // namespace roundtable::cpu
