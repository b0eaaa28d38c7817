// Packed products by LibTorch's door to oneDNN's brgemm, which its own attention kernels use; and attention with them, a
// head and a tile of query rows at a time.
#include "model/attention/packed.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/simd/bf16_bits.h"
#include "base/simd/bf16_rows.h"
#include "model/attention/tiles.h"

namespace roundtable {
namespace {

// Where oneDNN lacks the instructions LibTorch takes b for a plain matrix, and the result is another; or it throws.
bool multiplies_rightly() {
  constexpr std::int64_t kRows = 40, kColumns = 80, kDepth = 70, kStride = 160;
  std::vector<std::uint16_t> a(kRows * kDepth);
  std::vector<std::uint16_t> b(kDepth * kStride);
  std::vector<float> c(kRows * kColumns);
  // Small whole numbers: all sums are exact.
  const auto left = [](std::int64_t r, std::int64_t k) { return static_cast<float>((r + 2 * k) % 7 - 3); };
  const auto right = [](std::int64_t k, std::int64_t n) { return static_cast<float>((k * k + n) % 11 - 5); };
  for (std::int64_t k = 0; k < kDepth; ++k) {
    for (std::int64_t r = 0; r < kRows; ++r) store(left(r, k), a[static_cast<std::size_t>(r * kDepth + k)]);
    for (std::int64_t n = 0; n < kColumns; ++n) {
      store(right(k, n), b[static_cast<std::size_t>((k / 2 * kStride + n) * 2 + k % 2)]);
    }
  }
  packed_product(kRows, kColumns, kDepth, a.data(), kDepth, {b.data(), kStride}, c.data(), kColumns);
  end_packed_products();
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t n = 0; n < kColumns; ++n) {
      float sum = 0;
      for (std::int64_t k = 0; k < kDepth; ++k) sum += left(r, k) * right(k, n);
      if (c[static_cast<std::size_t>(r * kColumns + n)] != sum) return false;
    }
  }
  return true;
}

bool probe() {
#if defined(__x86_64__)
  try {
    return multiplies_rightly();
  } catch (const std::exception&) {
    return false;
  }
#else
  return false;
#endif
}

RT_SIMD_CLONES void interleave(const std::uint16_t* __restrict even, const std::uint16_t* __restrict odd,
                               std::int64_t n, std::uint32_t* __restrict pairs) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) pairs[i] = even[i] | static_cast<std::uint32_t>(odd[i]) << 16;
}

}  // namespace

bool has_packed_product() {
  static const bool has = probe();
  return has;
}

void pack_matrix(const std::uint16_t* from, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                 std::uint16_t* to) {
  auto* pairs = reinterpret_cast<std::uint32_t*>(to);
  for (std::int64_t r = 0; r < rows; r += 2) {
    interleave(from + r * stride, from + (r + 1) * stride, columns, pairs + r / 2 * columns);
  }
}

torch::Tensor pack_matrices(const torch::Tensor& x) {
  RT_CHECK(x.is_contiguous() && x.scalar_type() == torch::kBFloat16 && x.dim() == 3 && x.size(1) % 2 == 0);
  torch::Tensor packed = torch::empty_like(x);
  const std::int64_t matrix = x.size(1) * x.size(2);
  const auto* from = static_cast<const std::uint16_t*>(x.const_data_ptr());
  auto* to = static_cast<std::uint16_t*>(packed.data_ptr());
  at::parallel_for(0, x.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      pack_matrix(from + i * matrix, x.size(2), x.size(1), x.size(2), to + i * matrix);
    }
  });
  return packed;
}

torch::Tensor pack_transposed(const torch::Tensor& x) {
  RT_CHECK(x.is_contiguous() && x.scalar_type() == torch::kBFloat16 && x.dim() == 3 && x.size(2) % 2 == 0);
  return x.view(torch::kInt32).transpose(1, 2).contiguous();  // a pair of columns is one number
}

void packed_product(std::int64_t rows, std::int64_t columns, std::int64_t depth, const std::uint16_t* a,
                    std::int64_t a_stride, const PackedMatrix& b, float* c, std::int64_t c_stride, bool add) {
  at::native::cpublas::brgemm(rows, columns, depth, a_stride, b.stride, c_stride, add,
                              reinterpret_cast<const at::BFloat16*>(a), reinterpret_cast<const at::BFloat16*>(b.data),
                              c,
                              /*is_vnni=*/true);
}

void end_packed_products() { at::native::cpublas::brgemm_release(/*is_vnni=*/true); }

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

template <class T>
std::unique_ptr<T[]> room(std::int64_t n) {
  return std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(n));
}

// What a thread has of a tile.
struct Buffers {
  Buffers(const AttentionTile& tile, std::int64_t head_dim)
      : scores(room<float>(tile.rows() * tile.keys())),
        mixed(room<float>(tile.rows() * head_dim)),
        gradients(room<std::uint16_t>(tile.rows() * tile.keys())),
        packed(room<std::uint16_t>(tile.rows() * std::max(tile.keys(), head_dim))),
        turned(room<std::uint16_t>(tile.rows() * head_dim)) {}
  std::unique_ptr<float[]> scores;             // [rows, keys], or their gradients
  std::unique_ptr<float[]> mixed;              // [rows, head_dim]
  std::unique_ptr<std::uint16_t[]> gradients;  // [rows, keys]
  std::unique_ptr<std::uint16_t[]> packed;     // [rows, keys or head_dim]
  std::unique_ptr<std::uint16_t[]> turned;     // [head_dim, rows]
};

// rows x columns -> columns x rows; `packed` is room for as many. Pairs of rows are one number, which halves the steps.
void turn_rows(const std::uint16_t* from, std::int64_t stride, std::int64_t rows, std::int64_t columns,
               std::uint16_t* packed, std::uint16_t* turned) {
  pack_matrix(from, stride, rows, columns, packed);
  const auto* pairs = reinterpret_cast<const std::uint32_t*>(packed);
  auto* to = reinterpret_cast<std::uint32_t*>(turned);
  const std::int64_t n = rows / 2;
  for (std::int64_t c = 0; c < columns; ++c) {
    for (std::int64_t r = 0; r < n; ++r) to[c * n + r] = pairs[r * columns + c];
  }
}

class TileWork {
 public:
  TileWork(const AttentionHeads& heads, const AttentionTile& tile, std::int64_t window, float scale)
      : heads_(heads), tile_(tile), window_(window), scale_(scale) {}

  // Probabilities of all heads into p [n, shared * rows, keys], and what they mix of the values into out.
  void forward(const HeadRows& q, const torch::Tensor& transposed_keys, const torch::Tensor& values,
               const torch::Tensor& p, const HeadRows& out) const {
    for_each_head(1, [&](const HeadPlace& at, Buffers& buffers) {
      score(q, transposed_keys, at, buffers);
      std::uint16_t* probabilities = tile_of(p, at);
      for (std::int64_t r = 0; r < tile_.rows(); ++r) {
        const std::int64_t row = r * tile_.keys();
        softmax_row(&buffers.scores[row], visible_keys(tile_, r, window_), tile_.keys(), scale_, probabilities + row);
      }
      mix(probabilities, values, at, buffers, out);
    });
  }

  // From dL/dout: dL/dq, and what the tile adds to those of keys and values, both fp32 [n, head_dim, seqlen].
  void backward(const HeadRows& q, const HeadRows& dy, const torch::Tensor& transposed_values,
                const torch::Tensor& keys, const torch::Tensor& p, const HeadRows& dq, const torch::Tensor& dk,
                const torch::Tensor& dv) const {
    // Query heads that share a key/value head add to the same sums.
    for_each_head(heads_.shared, [&](const HeadPlace& at, Buffers& buffers) {
      score(dy, transposed_values, at, buffers);
      const std::uint16_t* probabilities = tile_of(p, at);
      std::uint16_t* gradients = buffers.gradients.get();
      for (std::int64_t r = 0; r < tile_.rows(); ++r) {
        const std::int64_t row = r * tile_.keys();
        softmax_gradient_row(probabilities + row, &buffers.scores[row], visible_keys(tile_, r, window_), tile_.keys(),
                             scale_, gradients + row);
      }
      mix(gradients, keys, at, buffers, dq);
      add_turned(dy, probabilities, at, buffers, dv);
      add_turned(q, gradients, at, buffers, dk);
    });
  }

 private:
  // In parallel, but for each `together` heads, which one thread goes through in their order.
  template <class Body>
  void for_each_head(std::int64_t together, const Body& body) const {
    at::parallel_for(0, heads_.n() * heads_.shared / together, 1, [&](std::int64_t begin, std::int64_t end) {
      Buffers buffers(tile_, heads_.head_dim);
      for (std::int64_t i = begin * together; i < end * together; ++i) {
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
    packed_product(tile_.rows(), tile_.keys(), heads_.head_dim, rows.row(at.sample, at.head, tile_.begin),
                   rows.stride(), matrix(right, at, heads_.seqlen).from(0, tile_.first_key), buffers.scores.get(),
                   tile_.keys());
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

  // sums [n, head_dim, seqlen] += (the tile's rows)^T times `right` [rows, keys]: the gradient of keys or values,
  // turned so that the smaller of the two is.
  void add_turned(const HeadRows& rows, const std::uint16_t* right, const HeadPlace& at, Buffers& buffers,
                  const torch::Tensor& sums) const {
    const std::int64_t n = tile_.rows();
    turn_rows(rows.row(at.sample, at.head, tile_.begin), rows.stride(), n, heads_.head_dim, buffers.packed.get(),
              buffers.turned.get());
    pack_matrix(right, tile_.keys(), n, tile_.keys(), buffers.packed.get());
    float* sum = sums.data_ptr<float>() + at.product * heads_.head_dim * heads_.seqlen + tile_.first_key;
    packed_product(heads_.head_dim, tile_.keys(), n, buffers.turned.get(), n, {buffers.packed.get(), tile_.keys()}, sum,
                   heads_.seqlen, /*add=*/true);
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
    const torch::Tensor values = pack_matrices(v);
    const bool keep = q_in.requires_grad() || k_in.requires_grad() || v_in.requires_grad();
    KeptAttention kept{q.whole, k, v, scale, window};
    const torch::Tensor out = heads.new_rows(q_in).transpose(1, 2);
    for (const AttentionTile& tile : attention_tiles(heads.seqlen, window)) {
      torch::Tensor p = torch::empty({heads.n(), heads.shared * tile.rows(), tile.keys()}, k.options());
      TileWork(heads, tile, window, static_cast<float>(scale)).forward(q, transposed_keys, values, p, HeadRows(out));
      if (keep) kept.tiles.push_back(p);
    }
    kept.save(context);
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const auto kept = KeptAttention::saved_in(context);
    const torch::Tensor &q = kept.q, &k = kept.k, &v = kept.v;
    const AttentionHeads heads = kept.heads();
    const HeadRows dy(grad_outputs[0]);
    const torch::Tensor transposed_values = pack_transposed(v);
    const torch::Tensor keys = pack_matrices(k);
    // A key's gradient is a sum over tiles and heads, so it is kept in fp32.
    const torch::Tensor dk =
        torch::zeros({heads.n(), heads.head_dim, heads.seqlen}, k.options().dtype(torch::kFloat32));
    const torch::Tensor dv = torch::zeros_like(dk);
    const torch::Tensor dq = heads.new_rows(q).transpose(1, 2);
    auto p = kept.tiles.begin();
    for (const AttentionTile& tile : attention_tiles(heads.seqlen, kept.window)) {
      TileWork(heads, tile, kept.window, static_cast<float>(kept.scale))
          .backward(HeadRows(q), dy, transposed_values, keys, *p++, HeadRows(dq), dk, dv);
    }
    const auto turned_back = [&](const torch::Tensor& x) {
      return x.to(k.scalar_type()).unflatten(0, {heads.batch, heads.kv_heads}).transpose(2, 3);
    };
    return {dq, turned_back(dk), turned_back(dv), torch::Tensor(), torch::Tensor()};
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
