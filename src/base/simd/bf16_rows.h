// bf16 to fp32 and back, many numbers at a time, vectorized.
#pragma once

#include <cstdint>

namespace roundtable {

void widen_row(const std::uint16_t* from, std::int64_t n, float* to);

// Half to even; see store() of bf16_bits.h.
void narrow_row(const float* from, std::int64_t n, std::uint16_t* to);

}  // namespace roundtable
