// Numbers of 8 and 4 bits as publishers store weights and scales, and matrices of them with a scale per block.
//
//   E4M3   OCP 8-bit floating point, 1.0: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, 0x7f and
//          0xff are NaN
//   E2M1   OCP microscaling formats, 1.0: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; two in a byte, the first in
//          its lower half
//   E8M0   the same: 2^(byte - 127), and 255 is NaN
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace roundtable {

enum class Code { kE4M3, kE2M1 };

float e4m3_value(std::uint8_t bits);
float e8m0_value(std::uint8_t bits);

// fp32 tensors of the same shape as `bytes` (kUInt8).
torch::Tensor e4m3_values(const torch::Tensor& bytes);
torch::Tensor e8m0_values(const torch::Tensor& bytes);

// Scales of a matrix: the block of `rows` x `columns` weights at block row r and block column c has scales[r][c].
// Blocks at the lower and the right edge may be cut.
struct ScaleGrid {
  torch::Tensor scales;  // fp32 [block rows, block columns]
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

// `codes` [rows, columns] kUInt8, or [rows, columns / 2] for E2M1 -> [rows, columns]: value * scale, computed in fp32
// and rounded once to `dtype` (fp32, fp16 or bf16).
torch::Tensor dequantize_blocks(const torch::Tensor& codes, Code code, const ScaleGrid& grid, torch::ScalarType dtype);

}  // namespace roundtable
