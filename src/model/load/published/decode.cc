// Tables of the values, and one pass over a matrix.
#include "model/load/published/decode.h"

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"

namespace roundtable {
namespace {

using Table = std::array<float, 256>;

Table table_of(float (*value)(std::uint8_t)) {
  Table table{};
  for (int bits = 0; bits < 256; ++bits) table[static_cast<std::size_t>(bits)] = value(static_cast<std::uint8_t>(bits));
  return table;
}

constexpr std::array<float, 16> kE2m1 = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                         -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

torch::Tensor values_of(const torch::Tensor& bytes, const Table& table) {
  RT_CHECK(bytes.scalar_type() == torch::kUInt8 && bytes.is_contiguous());
  torch::Tensor values = torch::empty(bytes.sizes(), torch::kFloat32);
  const auto* from = bytes.const_data_ptr<std::uint8_t>();
  std::transform(from, from + bytes.numel(), values.data_ptr<float>(), [&](std::uint8_t bits) { return table[bits]; });
  return values;
}

void decode_row(const std::uint8_t* codes, Code code, const Table& e4m3, std::vector<float>& row) {
  if (code == Code::kE4M3) {
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = e4m3[codes[i]];
    return;
  }
  for (std::size_t i = 0; i + 1 < row.size(); i += 2) {
    row[i] = kE2m1[codes[i / 2] & 15];
    row[i + 1] = kE2m1[codes[i / 2] >> 4];
  }
}

template <class R>
void dequantize_to(const torch::Tensor& codes, Code code, const ScaleGrid& grid, torch::Tensor& result) {
  static const Table e4m3 = table_of(e4m3_value);
  const std::int64_t columns = result.size(1);
  const std::int64_t width = codes.size(1);
  const std::int64_t per_row = grid.scales.size(1);
  const auto* from = codes.const_data_ptr<std::uint8_t>();
  const auto* scales = grid.scales.const_data_ptr<float>();
  R* to = result.data_ptr<R>();
  at::parallel_for(0, result.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(columns));
    for (std::int64_t r = begin; r < end; ++r) {
      decode_row(from + r * width, code, e4m3, row);
      const float* scale = scales + r / grid.rows * per_row;
      for (std::int64_t first = 0; first < columns; first += grid.columns, ++scale) {
        const std::int64_t last = std::min(first + grid.columns, columns);
        for (std::int64_t c = first; c < last; ++c) {
          to[r * columns + c] = static_cast<R>(row[static_cast<std::size_t>(c)] * *scale);
        }
      }
    }
  });
}

}  // namespace

float e4m3_value(std::uint8_t bits) {
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  float size = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                             : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  if (exponent == 15 && mantissa == 7) size = std::numeric_limits<float>::quiet_NaN();
  return (bits & 128) != 0 ? -size : size;
}

float e8m0_value(std::uint8_t bits) {
  return bits == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, bits - 127);
}

torch::Tensor e4m3_values(const torch::Tensor& bytes) {
  static const Table table = table_of(e4m3_value);
  return values_of(bytes, table);
}

torch::Tensor e8m0_values(const torch::Tensor& bytes) {
  static const Table table = table_of(e8m0_value);
  return values_of(bytes, table);
}

torch::Tensor dequantize_blocks(const torch::Tensor& codes, Code code, const ScaleGrid& grid, torch::ScalarType dtype) {
  RT_CHECK(codes.dim() == 2 && codes.scalar_type() == torch::kUInt8 && codes.is_contiguous());
  RT_CHECK(grid.rows > 0 && grid.columns > 0 && grid.scales.dim() == 2 && grid.scales.is_contiguous());
  const std::int64_t rows = codes.size(0);
  const std::int64_t columns = code == Code::kE2M1 ? 2 * codes.size(1) : codes.size(1);
  RT_CHECK(grid.scales.size(0) == (rows + grid.rows - 1) / grid.rows);
  RT_CHECK(grid.scales.size(1) == (columns + grid.columns - 1) / grid.columns);
  torch::Tensor result = torch::empty({rows, columns}, dtype);
  if (dtype == torch::kBFloat16) {
    dequantize_to<at::BFloat16>(codes, code, grid, result);
  } else if (dtype == torch::kFloat16) {
    dequantize_to<at::Half>(codes, code, grid, result);
  } else {
    dequantize_to<float>(codes, code, grid, result);
  }
  return result;
}

}  // namespace roundtable
