// Integers of 2, 3, 4 or 8 bits packed into 32-bit words, as GPTQ checkpoints hold them: 32 values fill `bits` words
// as one little-endian stream of bits. For 2, 4 and 8 bits no value crosses a word; for 3 bits two of 32 do.
// Source: auto-round 0.16.1, auto_round_extension/torch/qlinear_torch_zp.py (pack_248_bits, pack_3bits), where the
// 3-bit shifts spell out the same stream.
#pragma once

#include <torch/types.h>

namespace roundtable {

// values [rows, columns] uint8, rows divisible by 32 -> [rows / 32 * bits, columns] int32, packed down the rows.
torch::Tensor pack_rows(const torch::Tensor& values, int bits);

// The inverse of pack_rows: [words, columns] int32 -> [words / bits * 32, columns] uint8.
torch::Tensor unpack_rows(const torch::Tensor& words, int bits);

}  // namespace roundtable
