// How query heads and key/value heads lie in attention's products.
#pragma once

#include <torch/types.h>

#include "model/attention/rows.h"

namespace roundtable {

// The head layout of a call: n = batch * kv_heads products, each with `shared` query heads as its rows.
struct AttentionHeads {
  std::int64_t batch, kv_heads, shared, seqlen, head_dim;

  // q [batch, heads, seqlen, head_dim], k [batch, kv_heads, seqlen, head_dim].
  static AttentionHeads of(const torch::Tensor& q, const torch::Tensor& k) {
    return {q.size(0), k.size(1), q.size(1) / k.size(1), q.size(2), q.size(3)};
  }
  std::int64_t n() const { return batch * kv_heads; }

  // [batch, heads, seqlen, head_dim] -> the tile's rows [n, shared * rows, head_dim], contiguous.
  torch::Tensor rows_of(const torch::Tensor& x, const AttentionTile& tile) const {
    return x.unflatten(1, {kv_heads, shared})
        .narrow(3, tile.begin, tile.rows())
        .reshape({n(), shared * tile.rows(), head_dim})
        .contiguous();
  }
  // The other way round, into the tile's part of [batch, seqlen, heads, head_dim].
  void put_rows(const torch::Tensor& rows, const AttentionTile& tile, torch::Tensor& whole) const {
    whole.narrow(1, tile.begin, tile.rows())
        .unflatten(2, {kv_heads, shared})
        .copy_(rows.view({batch, kv_heads, shared, tile.rows(), head_dim}).permute({0, 3, 1, 2, 4}));
  }
  // [batch, kv_heads, seqlen, head_dim] -> [n, seqlen, head_dim], contiguous.
  torch::Tensor keys_of(const torch::Tensor& x) const { return x.reshape({n(), seqlen, head_dim}).contiguous(); }
  torch::Tensor new_rows(const torch::Tensor& like) const {
    return torch::empty({batch, seqlen, kv_heads * shared, head_dim}, like.options());
  }
};

}  // namespace roundtable
