// Attention's tiles, and what is done to a row of scores.
#pragma once

#include <cstdint>
#include <vector>

namespace roundtable {

// Query rows [begin, end) and the keys [first_key, end) that any of them sees.
struct AttentionTile {
  std::int64_t begin, end, first_key;
  std::int64_t rows() const { return end - begin; }
  std::int64_t keys() const { return end - first_key; }
};

// The tiles of a sample, in order. window > 0: see causal_attention. first_key is even.
std::vector<AttentionTile> attention_tiles(std::int64_t seqlen, std::int64_t window);

// The keys of a tile that one of its query rows sees, as places within the tile's keys.
struct VisibleKeys {
  std::int64_t begin, end;
};
VisibleKeys visible_keys(const AttentionTile& tile, std::int64_t row, std::int64_t window);

// p <- softmax(scores * scale) over the keys that are seen, 0 elsewhere, of `keys`. Scores are used up. T is float, or
// std::uint16_t for bf16.
template <class T>
void softmax_row(float* scores, VisibleKeys seen, std::int64_t keys, float scale, T* p);

// The softmax's gradient, dL/dp -> dL/d(q k^T): p * (dp - sum(p * dp)) * scale where a key is seen, 0 elsewhere. `ds`
// may be `dp`. T and G are float or std::uint16_t.
template <class T, class G>
void softmax_gradient_row(const T* p, const G* dp, VisibleKeys seen, std::int64_t keys, float scale, T* ds);

}  // namespace roundtable
