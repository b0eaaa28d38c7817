// Quantized layers as GGML's blocks. Inside this folder, and for convert/.
//
// Source: ggml/src/ggml-common.h (block_q4_0 and the others) and gguf 0.19.0, quants.py (dequantize_blocks). With d, m
// and the blocks' scales in fp16, q the integer as stored there, and our scale s, integer q and zero point z:
//
//   Q8_0  32 weights    d q                 d = s, q - 128                              sym, 8 bits
//   Q4_0  32 weights    d (q - 8)           d = s                                       sym, 4 bits
//   Q4_1  32 weights    d q + m             d = s, m = fp16(-s z)                       asym, 4 bits
//   Q4_K  256 weights   d sc q - dmin mn    d = dmin = s, sc = 1, mn = z                asym, 4 bits
//   Q3_K  256 weights   d (sc - 32) (q - 4) d = s, sc = 33                              sym, 3 bits
//   Q2_K  256 weights   d sc q - dmin mn    d = dmin = s, sc = 1, mn = z                2 bits
//
// A block of 256 has one fp16 scale, and its parts have small integers times that scale. Scales that are tuned one by
// one do not fit this, so a group must cover the whole block. All except Q4_1 hold s (q - z) exactly; Q4_1 rounds s z
// to fp16.
#pragma once

#include <torch/types.h>

#include <optional>
#include <string>

#include "export/format.h"
#include "export/gguf/container.h"
#include "model/load/parameter.h"
#include "quant/fake_quant.h"

namespace roundtable {

// The type for a layer of `columns` inputs with this scheme.
GgufType gguf_type(const QuantScheme& scheme, std::int64_t columns);

// Why no type holds a scheme, or a layer; nothing if one does.
std::optional<std::string> gguf_scheme_obstacle(const QuantScheme& scheme);
std::optional<std::string> gguf_layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme);

// Why the minima of a layer's groups do not fit their type, where it stores them; nothing if they do.
std::optional<std::string> gguf_minimum_obstacle(const QuantScheme& scheme, std::int64_t columns,
                                                 const GroupScales& scales);

// Bytes of a row of `columns` weights.
std::int64_t gguf_row_bytes(GgufType type, std::int64_t columns);

// [out, row bytes] uint8
torch::Tensor gguf_blocks(const QuantizedWeight& weight);

}  // namespace roundtable
