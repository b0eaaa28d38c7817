// Attention over tiles of query rows.
//
// LibTorch's CPU kernel multiplies in fp32 (its bf16 products go through MKL, which widens them on many CPUs) and
// repeats the key/value heads. Here a tile of rows goes through batched products in the activations' own dtype, which
// run at the machine's bf16 rate; all query heads that share a key/value head are rows of one product, and keys that
// the whole tile cannot see are left out. packed.h goes further where the CPU has bf16 instructions.
#include "model/attention/attention.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "base/error.h"
#include "model/attention/packed.h"
#include "model/attention/tiles.h"

namespace roundtable {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kGrainScores = 16384;      // elements a thread takes at least
constexpr std::int64_t kScoresInCache = 200'000;  // of a thread, in fp32: less than its level 2 cache

// Calls body(first element of a row, the keys it sees) for all rows of [n, heads' tile rows, keys], in parallel.
template <class Body>
void for_each_row(const AttentionTile& tile, std::int64_t total_rows, std::int64_t window, const Body& body) {
  at::parallel_for(0, total_rows, std::max<std::int64_t>(1, kGrainScores / tile.keys()),
                   [&](std::int64_t first, std::int64_t last) {
                     for (std::int64_t r = first; r < last; ++r) {
                       body(r * tile.keys(), visible_keys(tile, r % tile.rows(), window));
                     }
                   });
}

// scores fp32 [n, rows, keys] -> probabilities in T; scores are used up.
template <class T>
void softmax_rows(const AttentionTile& tile, std::int64_t window, float scale, torch::Tensor& scores,
                  torch::Tensor& p) {
  float* s = scores.data_ptr<float>();
  T* out = static_cast<T*>(p.data_ptr());
  for_each_row(tile, scores.size(0) * scores.size(1), window,
               [&](std::int64_t at, VisibleKeys seen) { softmax_row(s + at, seen, tile.keys(), scale, out + at); });
}

// dL/dp -> dL/d(q k^T), in place.
template <class T>
void softmax_rows_gradient(const AttentionTile& tile, std::int64_t window, float scale, const torch::Tensor& p,
                           torch::Tensor& gradient) {
  const T* probabilities = static_cast<const T*>(p.const_data_ptr());
  T* g = static_cast<T*>(gradient.data_ptr());
  for_each_row(tile, p.size(0) * p.size(1), window, [&](std::int64_t at, VisibleKeys seen) {
    softmax_gradient_row(probabilities + at, g + at, seen, tile.keys(), scale, g + at);
  });
}

// Probabilities [n, shared * rows, keys] of a tile. Its scores are made a few heads at a time, so that the softmax
// finds them in the cache.
torch::Tensor tile_probabilities(const torch::Tensor& rows, const torch::Tensor& wide_keys, const AttentionTile& tile,
                                 std::int64_t window, double scale) {
  const bool bf16 = rows.scalar_type() == torch::kBFloat16;
  const torch::Tensor wide_rows = rows.to(torch::kFloat32);
  torch::Tensor p = torch::empty({rows.size(0), rows.size(1), tile.keys()}, rows.options());
  const std::int64_t at_once =
      std::max<std::int64_t>(1, at::get_num_threads() * kScoresInCache / (rows.size(1) * tile.keys()));
  torch::Tensor buffer =
      torch::empty({std::min(at_once, rows.size(0)), rows.size(1), tile.keys()}, wide_rows.options());
  for (std::int64_t first = 0; first < rows.size(0); first += at_once) {
    const std::int64_t n = std::min(at_once, rows.size(0) - first);
    torch::Tensor scores = buffer.narrow(0, 0, n);
    at::bmm_out(scores, wide_rows.narrow(0, first, n), wide_keys.narrow(0, first, n).transpose(1, 2));
    torch::Tensor part = p.narrow(0, first, n);
    (bf16 ? softmax_rows<std::uint16_t> : softmax_rows<float>)(tile, window, static_cast<float>(scale), scores, part);
  }
  return p;
}

struct TiledAttention : public torch::autograd::Function<TiledAttention> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& q, const torch::Tensor& k_in,
                               const torch::Tensor& v_in, double scale, std::int64_t window) {
    const auto heads = AttentionHeads::of(q, k_in);
    const torch::Tensor k = heads.keys_of(k_in);
    const torch::Tensor v = heads.keys_of(v_in);
    const torch::Tensor wide_k = k.to(torch::kFloat32);
    const bool keep = q.requires_grad() || k_in.requires_grad() || v_in.requires_grad();
    KeptAttention kept{q, k, v, scale, window};
    torch::Tensor out = heads.new_rows(q);
    for (const AttentionTile& tile : attention_tiles(heads.seqlen, window)) {
      const torch::Tensor p = tile_probabilities(heads.rows_of(q, tile), wide_k.narrow(1, tile.first_key, tile.keys()),
                                                 tile, window, scale);
      heads.put_rows(torch::bmm(p, v.narrow(1, tile.first_key, tile.keys())), tile, out);
      if (keep) kept.tiles.push_back(p);
    }
    kept.save(context);
    return out.transpose(1, 2);
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const auto kept = KeptAttention::saved_in(context);
    const torch::Tensor &q = kept.q, &k = kept.k, &v = kept.v;
    const auto scale = static_cast<float>(kept.scale);
    const AttentionHeads heads = kept.heads();
    const bool bf16 = q.scalar_type() == torch::kBFloat16;
    // A key's gradient is a sum over tiles, so it is kept in fp32.
    torch::Tensor dk = torch::zeros(k.sizes(), k.options().dtype(torch::kFloat32));
    torch::Tensor dv = torch::zeros_like(dk);
    torch::Tensor dq = heads.new_rows(q);
    auto next = kept.tiles.begin();
    for (const AttentionTile& tile : attention_tiles(heads.seqlen, kept.window)) {
      const torch::Tensor& p = *next++;
      const auto keys_of = [&](const torch::Tensor& x) { return x.narrow(1, tile.first_key, tile.keys()); };
      const torch::Tensor dy = heads.rows_of(grad_outputs[0], tile);
      torch::Tensor ds = torch::bmm(dy, keys_of(v).transpose(1, 2));
      keys_of(dv).add_(torch::bmm(p.transpose(1, 2), dy));
      (bf16 ? softmax_rows_gradient<std::uint16_t> : softmax_rows_gradient<float>)(tile, kept.window, scale, p, ds);
      heads.put_rows(torch::bmm(ds, keys_of(k)), tile, dq);
      keys_of(dk).add_(torch::bmm(ds.transpose(1, 2), heads.rows_of(q, tile)));
    }
    const auto kv_shape = {heads.batch, heads.kv_heads, heads.seqlen, heads.head_dim};
    return {dq.transpose(1, 2), dk.to(k.scalar_type()).view(kv_shape), dv.to(v.scalar_type()).view(kv_shape),
            torch::Tensor(), torch::Tensor()};
  }
};

// [seqlen, seqlen] bool, true where a position sees a key.
torch::Tensor visible_mask(const torch::Tensor& q, std::int64_t window) {
  const torch::Tensor causal = torch::ones({q.size(2), q.size(2)}, q.options().dtype(torch::kBool)).tril();
  return window > 0 ? causal.logical_and(causal.tril(-window).logical_not()) : causal;
}

// LibTorch's own, which picks the best kernel of a CUDA device.
torch::Tensor library_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, double scale,
                                std::int64_t window) {
  std::optional<torch::Tensor> mask;
  if (window > 0 && window < q.size(2)) mask = visible_mask(q, window);
  return at::scaled_dot_product_attention(q, k, v, mask, /*dropout_p=*/0.0, /*is_causal=*/!mask, scale,
                                          /*enable_gqa=*/q.size(1) != k.size(1));
}

torch::Tensor capped_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, double scale,
                               std::int64_t window, double soft_cap) {
  const std::int64_t shared = q.size(1) / k.size(1);
  const torch::Tensor keys = k.repeat_interleave(shared, 1).transpose(2, 3);
  const torch::Tensor scores = torch::tanh(torch::matmul(q, keys) * scale / soft_cap) * soft_cap;
  const torch::Tensor hidden =
      scores.masked_fill(visible_mask(q, window).logical_not(), -std::numeric_limits<float>::infinity());
  const torch::Tensor p = torch::softmax(hidden, -1, torch::kFloat32).to(v.scalar_type());
  return torch::matmul(p, v.repeat_interleave(shared, 1));
}

}  // namespace

torch::Tensor causal_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, double scale,
                               std::int64_t window, double soft_cap) {
  RT_CHECK(q.size(1) % k.size(1) == 0 && k.sizes() == v.sizes() && q.size(2) == k.size(2) && scale > 0);
  if (soft_cap > 0) return capped_attention(q, k, v, scale, window, soft_cap);
  if (!q.is_cpu()) return library_attention(q, k, v, scale, window);
  if (takes_packed_attention(q)) return packed_attention(q, k, v, scale, window);
  return TiledAttention::apply(q, k, v, scale, window);
}

std::int64_t kept_attention_bytes(std::int64_t batch, std::int64_t heads, std::int64_t seqlen, std::int64_t window,
                                  std::int64_t element_bytes) {
  std::int64_t elements = 0;
  for (const AttentionTile& tile : attention_tiles(seqlen, window)) elements += tile.rows() * tile.keys();
  return batch * heads * elements * element_bytes;
}

}  // namespace roundtable
