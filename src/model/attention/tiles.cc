// Rows of scores: each in a few vectorized passes.
#include "model/attention/tiles.h"

#include <algorithm>

#include "base/simd/bf16_bits.h"
#include "base/simd/exp_inline.h"
#include "model/attention/attention.h"

namespace roundtable {
namespace {

RT_SIMD_CLONES float largest(const float* __restrict x, std::int64_t n) {
  float top = x[0];
#pragma omp simd reduction(max : top)
  for (std::int64_t i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

// x <- exp((x - top) * scale); returns the sum.
RT_SIMD_CLONES float exp_in_place(float* __restrict x, std::int64_t n, float top, float scale) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) {
    x[i] = exp_of((x[i] - top) * scale);
    sum += x[i];
  }
  return sum;
}

template <class T>
RT_SIMD_CLONES void store_scaled(const float* __restrict x, std::int64_t n, float factor, T* __restrict y) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(x[i] * factor, y[i]);
}

template <class T, class G>
RT_SIMD_CLONES float dot(const T* __restrict a, const G* __restrict b, std::int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += load(a[i]) * load(b[i]);
  return sum;
}

template <class T, class G>
RT_SIMD_CLONES void store_gradient(const T* p, const G* dp, std::int64_t n, float mean, float scale, T* ds) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(load(p[i]) * (load(dp[i]) - mean) * scale, ds[i]);
}

}  // namespace

std::vector<AttentionTile> attention_tiles(std::int64_t seqlen, std::int64_t window) {
  std::vector<AttentionTile> tiles;
  for (std::int64_t begin = 0; begin < seqlen; begin += kAttentionTileRows) {
    const std::int64_t first_key = window > 0 ? std::max<std::int64_t>(0, begin - window + 1) / 2 * 2 : 0;
    tiles.push_back({begin, std::min(seqlen, begin + kAttentionTileRows), first_key});
  }
  return tiles;
}

VisibleKeys visible_keys(const AttentionTile& tile, std::int64_t row, std::int64_t window) {
  const std::int64_t position = tile.begin + row;
  const std::int64_t first = window > 0 ? std::max(tile.first_key, position - window + 1) : tile.first_key;
  return {first - tile.first_key, position + 1 - tile.first_key};
}

template <class T>
void softmax_row(float* scores, VisibleKeys seen, std::int64_t keys, float scale, T* p) {
  float* row = scores + seen.begin;
  const std::int64_t n = seen.end - seen.begin;
  const float sum = exp_in_place(row, n, largest(row, n), scale);
  std::fill(p, p + seen.begin, T{});
  store_scaled(row, n, 1.0f / sum, p + seen.begin);
  std::fill(p + seen.end, p + keys, T{});
}

template <class T, class G>
void softmax_gradient_row(const T* p, const G* dp, VisibleKeys seen, std::int64_t keys, float scale, T* ds) {
  const std::int64_t n = seen.end - seen.begin;
  const float mean = dot(p + seen.begin, dp + seen.begin, n);
  std::fill(ds, ds + seen.begin, T{});
  store_gradient(p + seen.begin, dp + seen.begin, n, mean, scale, ds + seen.begin);
  std::fill(ds + seen.end, ds + keys, T{});
}

template void softmax_row(float*, VisibleKeys, std::int64_t, float, float*);
template void softmax_row(float*, VisibleKeys, std::int64_t, float, std::uint16_t*);
template void softmax_gradient_row(const float*, const float*, VisibleKeys, std::int64_t, float, float*);
template void softmax_gradient_row(const std::uint16_t*, const float*, VisibleKeys, std::int64_t, float,
                                   std::uint16_t*);
template void softmax_gradient_row(const std::uint16_t*, const std::uint16_t*, VisibleKeys, std::int64_t, float,
                                   std::uint16_t*);

}  // namespace roundtable
