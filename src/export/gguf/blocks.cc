// Packing quantized weights into GGML's blocks.
#include "export/gguf/blocks.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <cstring>

#include "base/error.h"

namespace roundtable {
namespace {

constexpr std::int64_t kSmall = 32;
constexpr std::int64_t kLarge = 256;

using Bytes = std::uint8_t*;
using Integers = const std::uint8_t*;

void put_half(Bytes to, float value) {
  const c10::Half half = value;
  std::memcpy(to, &half, sizeof half);
}

// The two low bits of 256 integers: two halves of 128, each 32 bytes of 4 integers that are 32 apart.
void put_pairs(Bytes to, Integers q) {
  for (int i = 0; i < kLarge; ++i) {
    const int half = i / 128, shift = i % 128 / 32, byte = i % 32;
    to[half * 32 + byte] = static_cast<std::uint8_t>(to[half * 32 + byte] | (q[i] & 3) << (2 * shift));
  }
}

void pack_q8_0(Bytes to, Integers q, float scale, int) {
  put_half(to, scale);
  for (int i = 0; i < kSmall; ++i) to[2 + i] = static_cast<std::uint8_t>(q[i] - 128);  // int8, two's complement
}

void put_nibbles(Bytes to, Integers q, int apart) {
  for (int i = 0; i < apart; ++i) to[i] = static_cast<std::uint8_t>(q[i] | q[i + apart] << 4);
}

void pack_q4_0(Bytes to, Integers q, float scale, int) {
  put_half(to, scale);
  put_nibbles(to + 2, q, 16);
}

void pack_q4_1(Bytes to, Integers q, float scale, int zero_point) {
  put_half(to, scale);
  put_half(to + 2, -scale * static_cast<float>(zero_point));
  put_nibbles(to + 4, q, 16);
}

// d, dmin, scales[12], qs[128]. The 8 scales and minima have 6 bits each: four of each in the low bits of a byte, the
// other four as nibbles, whose upper bits (0 here) are stored above the first four.
void pack_q4_k(Bytes to, Integers q, float scale, int zero_point) {
  put_half(to, scale);
  put_half(to + 2, scale);
  for (int i = 0; i < 4; ++i) {
    to[4 + i] = 1;
    to[8 + i] = static_cast<std::uint8_t>(zero_point);
    to[12 + i] = static_cast<std::uint8_t>(1 | zero_point << 4);
    put_nibbles(to + 16 + 32 * i, q + 64 * i, 32);
  }
}

// hmask[32], qs[64], scales[12], d. Bit 2 of integer i is bit i / 32 of byte i % 32. The 16 scales have 6 bits: 8 bytes
// of two low nibbles each, 4 bytes of four upper pairs; 33 is 1 and 2.
void pack_q3_k(Bytes to, Integers q, float scale, int) {
  for (int i = 0; i < kLarge; ++i) to[i % 32] = static_cast<std::uint8_t>(to[i % 32] | (q[i] >> 2) << (i / 32));
  put_pairs(to + 32, q);
  std::memset(to + 96, 0x11, 8);
  std::memset(to + 104, 0xAA, 4);
  put_half(to + 108, scale);
}

// scales[16] (minimum in the upper nibble), qs[64], d, dmin.
void pack_q2_k(Bytes to, Integers q, float scale, int zero_point) {
  std::memset(to, 1 | zero_point << 4, 16);
  put_pairs(to + 16, q);
  put_half(to + 80, scale);
  put_half(to + 82, scale);
}

struct Block {
  std::int64_t weights;
  std::int64_t bytes;
  void (*pack)(Bytes to, Integers q, float scale, int zero_point);
};

Block block_of(GgufType type) {
  switch (type) {
    case GgufType::kQ8_0:
      return {kSmall, 34, pack_q8_0};
    case GgufType::kQ4_0:
      return {kSmall, 18, pack_q4_0};
    case GgufType::kQ4_1:
      return {kSmall, 20, pack_q4_1};
    case GgufType::kQ4_K:
      return {kLarge, 144, pack_q4_k};
    case GgufType::kQ3_K:
      return {kLarge, 110, pack_q3_k};
    case GgufType::kQ2_K:
      return {kLarge, 84, pack_q2_k};
    case GgufType::kF32:
      return {1, 4, nullptr};
    case GgufType::kF16:
    case GgufType::kBF16:
      return {1, 2, nullptr};
  }
  RT_UNREACHABLE("a type without a block");
}

bool needs_large_groups(const QuantScheme& scheme) { return scheme.bits < 4; }

}  // namespace

GgufType gguf_type(const QuantScheme& scheme, std::int64_t columns) {
  switch (scheme.bits) {
    case 2:
      return GgufType::kQ2_K;
    case 3:
      return GgufType::kQ3_K;
    case 4:
      if (scheme.symmetric) return GgufType::kQ4_0;
      return scheme.group_columns(columns) % kLarge == 0 ? GgufType::kQ4_K : GgufType::kQ4_1;
    default:
      return GgufType::kQ8_0;
  }
}

std::optional<std::string> gguf_scheme_obstacle(const QuantScheme& scheme) {
  if (!scheme.symmetric && (scheme.bits == 3 || scheme.bits == 8)) {
    return fmt::format("it has no type for {} bits with a zero point", scheme.bits);
  }
  const std::int64_t width = needs_large_groups(scheme) ? kLarge : kSmall;
  if (scheme.group_size > 0 && scheme.group_size % width != 0) {
    return fmt::format("its types for {} bits need a group_size that is a multiple of {}, or -1", scheme.bits, width);
  }
  return std::nullopt;
}

std::optional<std::string> gguf_layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) {
  const std::int64_t width = needs_large_groups(scheme) ? kLarge : kSmall;
  if (linear.in % width != 0) return fmt::format("its input dimension {} is not a multiple of {}", linear.in, width);
  if (scheme.group_size > 0 && linear.in % scheme.group_size != 0) {
    return fmt::format("group_size {} does not divide its input dimension {}", scheme.group_size, linear.in);
  }
  return std::nullopt;
}

std::optional<std::string> gguf_minimum_obstacle(const QuantScheme& scheme, std::int64_t columns,
                                                 const GroupScales& scales) {
  if (gguf_type(scheme, columns) != GgufType::kQ4_1) return std::nullopt;
  return fp16_obstacle("a minimum", scales.scale.mul(scales.zero_point));
}

std::int64_t gguf_row_bytes(GgufType type, std::int64_t columns) {
  const Block block = block_of(type);
  RT_CHECK(columns % block.weights == 0);
  return columns / block.weights * block.bytes;
}

torch::Tensor gguf_blocks(const QuantizedWeight& weight) {
  const std::int64_t rows = weight.q.size(0), columns = weight.q.size(1);
  const Block block = block_of(gguf_type(weight.scheme, columns));
  const std::int64_t width = weight.scheme.group_columns(columns);
  RT_CHECK(width % block.weights == 0 && columns % width == 0);
  const torch::Tensor q = weight.q.cpu().contiguous();
  const torch::Tensor scale = weight.scale.cpu().contiguous();
  const torch::Tensor zero_point = weight.zero_point.cpu().contiguous();
  const std::int64_t groups = columns / width, blocks = columns / block.weights;
  torch::Tensor out = torch::zeros({rows, blocks * block.bytes}, torch::kUInt8);
  const auto* from = q.const_data_ptr<std::uint8_t>();
  const auto* scales = scale.const_data_ptr<float>();
  const auto* zeros = zero_point.const_data_ptr<std::uint8_t>();
  auto* to = out.data_ptr<std::uint8_t>();
  at::parallel_for(0, rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * blocks; i < end * blocks; ++i) {
      const std::int64_t group = i / blocks * groups + i % blocks * block.weights / width;
      block.pack(to + i * block.bytes, from + i * block.weights, scales[group], zeros[group]);
    }
  });
  return out;
}

}  // namespace roundtable
