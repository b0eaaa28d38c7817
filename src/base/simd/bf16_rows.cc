#include "base/simd/bf16_rows.h"

#include "base/simd/bf16_bits.h"

namespace roundtable {
namespace {

RT_SIMD_CLONES void widen(const std::uint16_t* __restrict from, std::int64_t n, float* __restrict to) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) to[i] = load(from[i]);
}

RT_SIMD_CLONES void narrow(const float* __restrict from, std::int64_t n, std::uint16_t* __restrict to) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(from[i], to[i]);
}

}  // namespace

void widen_row(const std::uint16_t* from, std::int64_t n, float* to) { widen(from, n, to); }
void narrow_row(const float* from, std::int64_t n, std::uint16_t* to) { narrow(from, n, to); }

}  // namespace roundtable
