// Causal attention in bf16 on a CPU whose products take packed matrices, and those products: small bf16 matrices into
// fp32, which LibTorch's operators do not offer on a CPU. Theirs round to bf16, or multiply in fp32 at half the rate and
// less.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace roundtable {

// Whether packed_product() is to be had: bf16 instructions, and a LibTorch whose oneDNN knows them. Found out once, by
// a product whose result is known.
bool has_packed_product();

// [rows, columns] bf16, packed as the right one of a product: rows 2 i and 2 i + 1 side by side, column by column, so
// that element (r, c) lies at ((r / 2) * stride + c) * 2 + r % 2.
struct PackedMatrix {
  const std::uint16_t* data;
  std::int64_t stride;  // columns from a pair of rows to the next
  // From the row 2 i and the column c on.
  PackedMatrix from(std::int64_t row, std::int64_t column) const {
    return {data + (row * stride + column * 2), stride};
  }
};

// x [n, rows, columns] bf16 contiguous, an even number of rows or columns -> n packed matrices [rows, columns], or of
// the transposed ones [columns, rows]; the tensors' elements are in no order of their own.
torch::Tensor pack_matrices(const torch::Tensor& x);
torch::Tensor pack_transposed(const torch::Tensor& x);

// One matrix [rows, columns] -> packed, into as many numbers; `stride` in elements from a row to the next, rows are
// even.
void pack_matrix(const std::uint16_t* from, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                 std::uint16_t* to);

// c [rows, columns] = a [rows, depth] b [depth, columns], or c + a b (add), sums in fp32. a_stride and c_stride in
// elements from a row to the next; depth is even. Only where has_packed_product(). Each thread calls
// end_packed_products() when it has made its products, which gives the core's matrix registers back where there are
// such.
void packed_product(std::int64_t rows, std::int64_t columns, std::int64_t depth, const std::uint16_t* a,
                    std::int64_t a_stride, const PackedMatrix& b, float* c, std::int64_t c_stride, bool add = false);
void end_packed_products();

// Whether packed_attention() serves q: bf16, an even length, an even head dimension, and has_packed_product().
bool takes_packed_attention(const torch::Tensor& q);

// causal_attention of such a q, without a cap. Scores and their gradients stay in fp32 and in a core's cache: a head's
// tile is multiplied, goes through the softmax and is multiplied again before the next one.
torch::Tensor packed_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v, double scale,
                               std::int64_t window);

}  // namespace roundtable
