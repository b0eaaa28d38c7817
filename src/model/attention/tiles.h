// What both ways of attention on a CPU share: tiles of query rows, the softmax of a row of scores and its gradient, how
// heads lie in the products, and what is kept for the backward pass.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

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

// What attention keeps between its forward and its backward pass.
struct KeptAttention {
  torch::Tensor q;     // [batch, heads, seqlen, head_dim]
  torch::Tensor k, v;  // [n, seqlen, head_dim], n = batch * kv_heads
  double scale;
  std::int64_t window;
  torch::autograd::variable_list tiles{};  // the probabilities of each tile, in order

  AttentionHeads heads() const { return AttentionHeads::of(q, k.unflatten(0, {q.size(0), -1})); }

  void save(torch::autograd::AutogradContext* context) const {
    torch::autograd::variable_list all{q, k, v};
    all.insert(all.end(), tiles.begin(), tiles.end());
    context->save_for_backward(all);
    context->saved_data["scale"] = scale;
    context->saved_data["window"] = window;
  }
  static KeptAttention saved_in(torch::autograd::AutogradContext* context) {
    const torch::autograd::variable_list all = context->get_saved_variables();
    return {all[0], all[1], all[2], context->saved_data["scale"].toDouble(), context->saved_data["window"].toInt(),
            {all.begin() + 3, all.end()}};
  }
};

}  // namespace roundtable
