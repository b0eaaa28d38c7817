// A head and a tile of query rows at a time.
#include "model/packed_attention.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>

#include "base/bf16_rows.h"
#include "model/attention_heads.h"
#include "model/packed_product.h"

namespace roundtable {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::uint16_t* bits_of(const torch::Tensor& x) { return static_cast<std::uint16_t*>(x.data_ptr()); }

// [batch, heads, seqlen, head_dim] whose rows are contiguous, wherever they lie.
struct HeadRows {
  explicit HeadRows(const torch::Tensor& x) : whole(x.stride(3) == 1 ? x : x.contiguous()) {}
  std::uint16_t* row(std::int64_t sample, std::int64_t head, std::int64_t position) const {
    return bits_of(whole) + sample * whole.stride(0) + head * whole.stride(1) + position * stride();
  }
  std::int64_t stride() const { return whole.stride(2); }

  torch::Tensor whole;
};

// A query head of a sample and the key/value head that serves it; `index` counts the former, `product` the latter.
struct HeadPlace {
  std::int64_t index, product, sample, head;
};

// What a thread has of a tile: its scores, and the rows that come of them.
struct Buffers {
  Buffers(const AttentionTile& tile, std::int64_t head_dim)
      : scores(std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(tile.rows() * tile.keys()))),
        mixed(std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(tile.rows() * head_dim))) {}
  std::unique_ptr<float[]> scores;  // [rows, keys]
  std::unique_ptr<float[]> mixed;   // [rows, head_dim]
};

class TileWork {
 public:
  TileWork(const AttentionHeads& heads, const AttentionTile& tile, std::int64_t window, float scale)
      : heads_(heads), tile_(tile), window_(window), scale_(scale) {}

  // Probabilities of all heads into p [n, shared * rows, keys], and what they mix of the values into out.
  void forward(const HeadRows& q, const torch::Tensor& transposed_keys, const torch::Tensor& values, const torch::Tensor& p,
               const HeadRows& out) const {
    for_each_head([&](const HeadPlace& at, Buffers& buffers) {
      score(q, transposed_keys, at, buffers);
      std::uint16_t* probabilities = tile_of(p, at);
      for (std::int64_t r = 0; r < tile_.rows(); ++r) {
        const std::int64_t row = r * tile_.keys();
        softmax_row(&buffers.scores[row], visible_keys(tile_, r, window_), tile_.keys(), scale_, probabilities + row);
      }
      mix(probabilities, values, at, buffers, out);
    });
  }

  // dL/d(q k^T) into ds, from that of out, and dL/dq.
  void backward(const HeadRows& dy, const torch::Tensor& transposed_values, const torch::Tensor& keys,
                const torch::Tensor& p, const torch::Tensor& ds, const HeadRows& dq) const {
    for_each_head([&](const HeadPlace& at, Buffers& buffers) {
      score(dy, transposed_values, at, buffers);
      const std::uint16_t* probabilities = tile_of(p, at);
      std::uint16_t* gradients = tile_of(ds, at);
      for (std::int64_t r = 0; r < tile_.rows(); ++r) {
        const std::int64_t row = r * tile_.keys();
        softmax_gradient_row(probabilities + row, &buffers.scores[row], visible_keys(tile_, r, window_), tile_.keys(),
                             scale_, gradients + row);
      }
      mix(gradients, keys, at, buffers, dq);
    });
  }

 private:
  template <class Body>
  void for_each_head(const Body& body) const {
    at::parallel_for(0, heads_.n() * heads_.shared, 1, [&](std::int64_t begin, std::int64_t end) {
      Buffers buffers(tile_, heads_.head_dim);
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t product = i / heads_.shared;
        const std::int64_t head = product % heads_.kv_heads * heads_.shared + i % heads_.shared;
        body(HeadPlace{i, product, product / heads_.kv_heads, head}, buffers);
      }
      end_packed_products();
    });
  }

  std::uint16_t* tile_of(const torch::Tensor& x, const HeadPlace& at) const {
    return bits_of(x) + at.index * tile_.rows() * tile_.keys();
  }

  // scores = the tile's rows times `right` [n, head_dim, seqlen], packed.
  void score(const HeadRows& rows, const torch::Tensor& right, const HeadPlace& at, Buffers& buffers) const {
    packed_product(tile_.rows(), tile_.keys(), heads_.head_dim, rows.row(at.sample, at.head, tile_.begin), rows.stride(),
                   matrix(right, at, heads_.seqlen).from(0, tile_.first_key), buffers.scores.get(), tile_.keys());
  }

  // The tile's rows of `out` = left [rows, keys] times `right` [n, seqlen, head_dim], packed.
  void mix(const std::uint16_t* left, const torch::Tensor& right, const HeadPlace& at, Buffers& buffers,
           const HeadRows& out) const {
    packed_product(tile_.rows(), heads_.head_dim, tile_.keys(), left, tile_.keys(),
                   matrix(right, at, heads_.head_dim).from(tile_.first_key, 0), buffers.mixed.get(), heads_.head_dim);
    for (std::int64_t r = 0; r < tile_.rows(); ++r) {
      narrow_row(&buffers.mixed[r * heads_.head_dim], heads_.head_dim, out.row(at.sample, at.head, tile_.begin + r));
    }
  }

  PackedMatrix matrix(const torch::Tensor& packed, const HeadPlace& at, std::int64_t columns) const {
    return {bits_of(packed) + at.product * heads_.seqlen * heads_.head_dim, columns};
  }

  const AttentionHeads& heads_;
  const AttentionTile& tile_;
  std::int64_t window_;
  float scale_;
};

struct PackedAttention : public torch::autograd::Function<PackedAttention> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& q_in, const torch::Tensor& k_in,
                               const torch::Tensor& v_in, double scale, std::int64_t window) {
    const auto heads = AttentionHeads::of(q_in, k_in);
    const HeadRows q(q_in);
    const torch::Tensor k = heads.keys_of(k_in);
    const torch::Tensor v = heads.keys_of(v_in);
    const torch::Tensor transposed_keys = pack_transposed(k);
    const torch::Tensor values = pack_rows(v);
    const bool keep = q_in.requires_grad() || k_in.requires_grad() || v_in.requires_grad();
    variable_list kept{q.whole, k, v};
    const torch::Tensor out = heads.new_rows(q_in).transpose(1, 2);
    for (const AttentionTile& tile : attention_tiles(heads.seqlen, window)) {
      torch::Tensor p = torch::empty({heads.n(), heads.shared * tile.rows(), tile.keys()}, k.options());
      TileWork(heads, tile, window, static_cast<float>(scale)).forward(q, transposed_keys, values, p, HeadRows(out));
      if (keep) kept.push_back(p);
    }
    context->save_for_backward(kept);
    context->saved_data["scale"] = scale;
    context->saved_data["window"] = window;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const variable_list kept = context->get_saved_variables();
    const torch::Tensor& q = kept[0];
    const torch::Tensor& k = kept[1];
    const torch::Tensor& v = kept[2];
    const auto scale = static_cast<float>(context->saved_data["scale"].toDouble());
    const std::int64_t window = context->saved_data["window"].toInt();
    const auto heads = AttentionHeads::of(q, k.unflatten(0, {q.size(0), -1}));
    const HeadRows dy(grad_outputs[0]);
    const torch::Tensor transposed_values = pack_transposed(v);
    const torch::Tensor keys = pack_rows(k);
    // A key's gradient is a sum over tiles, so it is kept in fp32.
    torch::Tensor dk = torch::zeros(k.sizes(), k.options().dtype(torch::kFloat32));
    torch::Tensor dv = torch::zeros_like(dk);
    const torch::Tensor dq = heads.new_rows(q).transpose(1, 2);
    std::size_t place = 3;
    for (const AttentionTile& tile : attention_tiles(heads.seqlen, window)) {
      const torch::Tensor& p = kept[place++];
      const torch::Tensor ds = torch::empty_like(p);
      TileWork(heads, tile, window, scale).backward(dy, transposed_values, keys, p, ds, HeadRows(dq));
      const auto keys_of = [&](const torch::Tensor& x) { return x.narrow(1, tile.first_key, tile.keys()); };
      keys_of(dv).add_(torch::bmm(p.transpose(1, 2), heads.rows_of(dy.whole, tile)));
      keys_of(dk).add_(torch::bmm(ds.transpose(1, 2), heads.rows_of(q, tile)));
    }
    const auto kv_shape = {heads.batch, heads.kv_heads, heads.seqlen, heads.head_dim};
    return {dq, dk.to(k.scalar_type()).view(kv_shape), dv.to(v.scalar_type()).view(kv_shape), torch::Tensor(),
            torch::Tensor()};
  }
};

}  // namespace

bool takes_packed_attention(const torch::Tensor& q) {
  return q.is_cpu() && q.scalar_type() == torch::kBFloat16 && q.size(2) % 2 == 0 && q.size(3) % 2 == 0 &&
         has_packed_product();
}

torch::Tensor packed_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, double scale,
                               std::int64_t window) {
  return PackedAttention::apply(q, k, v, scale, window);
}

}  // namespace roundtable
