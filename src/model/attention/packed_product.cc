// LibTorch's door to oneDNN's brgemm, which its own attention kernels use.
#include "model/attention/packed_product.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <exception>
#include <vector>

#include "base/simd/bf16_bits.h"
#include "base/error.h"

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

void pack_rows(const std::uint16_t* from, std::int64_t stride, std::int64_t rows, std::int64_t columns,
               std::uint16_t* to) {
  auto* pairs = reinterpret_cast<std::uint32_t*>(to);
  for (std::int64_t r = 0; r < rows; r += 2) {
    interleave(from + r * stride, from + (r + 1) * stride, columns, pairs + r / 2 * columns);
  }
}

torch::Tensor pack_rows(const torch::Tensor& x) {
  RT_CHECK(x.is_contiguous() && x.scalar_type() == torch::kBFloat16 && x.dim() == 3 && x.size(1) % 2 == 0);
  torch::Tensor packed = torch::empty_like(x);
  const std::int64_t matrix = x.size(1) * x.size(2);
  const auto* from = static_cast<const std::uint16_t*>(x.const_data_ptr());
  auto* to = static_cast<std::uint16_t*>(packed.data_ptr());
  at::parallel_for(0, x.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      pack_rows(from + i * matrix, x.size(2), x.size(1), x.size(2), to + i * matrix);
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

}  // namespace roundtable
