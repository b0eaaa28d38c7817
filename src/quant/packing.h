// Integers of 2, 3, 4 or 8 bits packed into 32-bit words, as GPTQ checkpoints hold them: 32 values fill `bits` words
// as one little-endian stream of bits. For 2, 4 and 8 bits no value crosses a word; for 3 bits two of 32 do.
// Source: auto-round 0.16.1, auto_round_extension/torch/qlinear_torch_zp.py (pack_248_bits, pack_3bits), where the
// 3-bit shifts spell out the same stream.
#pragma once

#include <torch/types.h>

namespace roundtable {

// How many words so many values fill; the last one may be filled in part.
std::int64_t packed_words(std::int64_t values, int bits);

// values [rows, columns] uint8 -> [packed_words(rows, bits), columns] int32, packed down the rows.
torch::Tensor pack_rows(const torch::Tensor& values, int bits);

// The inverse of pack_rows: [words, columns] int32 -> [rows, columns] uint8.
torch::Tensor unpack_rows(const torch::Tensor& words, int bits, std::int64_t rows);

}  // namespace roundtable
