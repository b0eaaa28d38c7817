// Bit streams down the rows of a matrix.
#include "quant/packing.h"

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>

#include "base/error.h"

namespace roundtable {
namespace {

constexpr std::int64_t kValues = 32;  // they fill `bits` whole words, so that threads do not share a word

}  // namespace

std::int64_t packed_words(std::int64_t values, int bits) { return (values * bits + 31) / 32; }

torch::Tensor pack_rows(const torch::Tensor& values, int bits) {
  RT_CHECK(values.dim() == 2 && values.scalar_type() == torch::kUInt8);
  const torch::Tensor in = values.contiguous();
  const std::int64_t rows = in.size(0);
  const std::int64_t columns = in.size(1);
  const std::int64_t runs = (rows + kValues - 1) / kValues;
  torch::Tensor out = torch::zeros({packed_words(rows, bits), columns}, torch::kInt32);
  const auto* from = in.const_data_ptr<std::uint8_t>();
  auto* to = reinterpret_cast<std::uint32_t*>(out.data_ptr<std::int32_t>());
  at::parallel_for(0, runs, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t value = begin * kValues; value < std::min(end * kValues, rows); ++value) {
      const std::int64_t bit = value * bits;
      const int shift = static_cast<int>(bit % 32);
      const bool crosses = shift + bits > 32;
      for (std::int64_t column = 0; column < columns; ++column) {
        const auto wide = static_cast<std::uint64_t>(from[value * columns + column]) << shift;
        to[bit / 32 * columns + column] |= static_cast<std::uint32_t>(wide);
        if (crosses) to[(bit / 32 + 1) * columns + column] |= static_cast<std::uint32_t>(wide >> 32);
      }
    }
  });
  return out;
}

torch::Tensor unpack_rows(const torch::Tensor& words, int bits, std::int64_t rows) {
  RT_CHECK(words.dim() == 2 && words.scalar_type() == torch::kInt32 && words.size(0) == packed_words(rows, bits));
  const torch::Tensor in = words.contiguous();
  const std::int64_t columns = in.size(1);
  const std::int64_t runs = (rows + kValues - 1) / kValues;
  torch::Tensor out = torch::empty({rows, columns}, torch::kUInt8);
  const auto* from = reinterpret_cast<const std::uint32_t*>(in.const_data_ptr<std::int32_t>());
  auto* to = out.data_ptr<std::uint8_t>();
  const std::uint32_t mask = (1u << bits) - 1;
  at::parallel_for(0, runs, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t value = begin * kValues; value < std::min(end * kValues, rows); ++value) {
      const std::int64_t bit = value * bits;
      const int shift = static_cast<int>(bit % 32);
      const bool crosses = shift + bits > 32;
      for (std::int64_t column = 0; column < columns; ++column) {
        std::uint64_t wide = from[bit / 32 * columns + column];
        if (crosses) wide |= static_cast<std::uint64_t>(from[(bit / 32 + 1) * columns + column]) << 32;
        to[value * columns + column] = static_cast<std::uint8_t>((wide >> shift) & mask);
      }
    }
  });
  return out;
}

}  // namespace roundtable
