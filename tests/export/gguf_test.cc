// GGML's blocks against its formulas, weight by weight; the whole file is held against the gguf package in tests/peer.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cstring>

#include "export/gguf/blocks.h"

namespace roundtable {
namespace {

float half_at(const std::uint8_t* bytes) {
  c10::Half half;
  std::memcpy(&half, bytes, sizeof half);
  return half;
}

// ggml/src/ggml-quants.c, dequantize_row_*: one block.
std::vector<float> dequantized(GgufType type, const std::uint8_t* b) {
  std::vector<float> out;
  const auto nibbles = [&](const std::uint8_t* qs, int apart, float d, float m) {
    for (int i = 0; i < apart; ++i) out.push_back(d * static_cast<float>(qs[i] & 15) + m);
    for (int i = 0; i < apart; ++i) out.push_back(d * static_cast<float>(qs[i] >> 4) + m);
  };
  switch (type) {
    case GgufType::kQ8_0:
      for (int i = 0; i < 32; ++i) out.push_back(half_at(b) * static_cast<float>(static_cast<std::int8_t>(b[2 + i])));
      break;
    case GgufType::kQ4_0:
      nibbles(b + 2, 16, half_at(b), -8 * half_at(b));
      break;
    case GgufType::kQ4_1:
      nibbles(b + 4, 16, half_at(b), half_at(b + 2));
      break;
    case GgufType::kQ4_K:
      for (int j = 0; j < 8; j += 2) {
        const std::uint8_t* s = b + 4;  // get_scale_min_k4
        const auto scale = [&](int k) { return k < 4 ? s[k] & 63 : (s[k + 4] & 15) | (s[k - 4] >> 6) << 4; };
        const auto least = [&](int k) { return k < 4 ? s[k + 4] & 63 : s[k + 4] >> 4 | (s[k] >> 6) << 4; };
        for (int half = 0; half < 2; ++half) {
          const float d = half_at(b) * static_cast<float>(scale(j + half));
          const float m = half_at(b + 2) * static_cast<float>(least(j + half));
          for (int i = 0; i < 32; ++i) out.push_back(d * static_cast<float>(b[16 + 16 * j + i] >> (4 * half) & 15) - m);
        }
      }
      break;
    case GgufType::kQ2_K:
      for (int i = 0; i < 256; ++i) {
        const int scale = b[i / 16];
        const int q = b[16 + i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
        out.push_back(half_at(b + 80) * static_cast<float>(scale & 15) * static_cast<float>(q) -
                      half_at(b + 82) * static_cast<float>(scale >> 4));
      }
      break;
    case GgufType::kQ3_K:
      for (int i = 0; i < 256; ++i) {
        const std::uint8_t* s = b + 96;
        const int k = i / 16;
        const int low = k < 8 ? s[k] & 15 : s[k - 8] >> 4;
        const int scale = (low | (s[8 + k % 4] >> (2 * (k / 4)) & 3) << 4) - 32;
        const int q = (b[32 + i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3) - (b[i % 32] >> (i / 32) & 1 ? 0 : 4);
        out.push_back(half_at(b + 108) * static_cast<float>(scale) * static_cast<float>(q));
      }
      break;
    default:
      ADD_FAILURE();
  }
  return out;
}

struct Case {
  GgufType type;
  QuantScheme scheme;
  std::int64_t block_bytes;
};

TEST(Gguf, BlocksHoldTheDequantizedWeights) {
  torch::manual_seed(9);
  const Case cases[] = {{GgufType::kQ8_0, {.bits = 8, .group_size = 64}, 34},
                        {GgufType::kQ4_0, {.bits = 4, .group_size = 32}, 18},
                        {GgufType::kQ4_1, {.bits = 4, .group_size = 128, .symmetric = false}, 20},
                        {GgufType::kQ4_K, {.bits = 4, .group_size = 256, .symmetric = false}, 144},
                        {GgufType::kQ3_K, {.bits = 3, .group_size = -1}, 110},
                        {GgufType::kQ2_K, {.bits = 2, .group_size = 256}, 84},
                        {GgufType::kQ2_K, {.bits = 2, .group_size = -1, .symmetric = false}, 84}};
  for (const Case& one : cases) {
    const std::int64_t out = 3, in = 512, groups = one.scheme.groups(in);
    const int levels = 1 << one.scheme.bits;
    const QuantizedWeight weight{one.scheme, torch::randint(0, levels, {out, in}, torch::kUInt8),
                                 torch::randn({out, groups}).to(torch::kFloat16).to(torch::kFloat32),
                                 one.scheme.symmetric ? torch::full({out, groups}, levels / 2, torch::kUInt8)
                                                      : torch::randint(0, levels, {out, groups}, torch::kUInt8)};
    ASSERT_EQ(gguf_type(one.scheme, in), one.type);
    ASSERT_FALSE(gguf_scheme_obstacle(one.scheme));
    const torch::Tensor blocks = gguf_blocks(weight);
    const torch::Tensor want = dequantize(weight, torch::kFloat32).contiguous();
    std::vector<float> have;
    for (std::int64_t i = 0; i < blocks.numel(); i += one.block_bytes) {
      const auto part = dequantized(one.type, blocks.const_data_ptr<std::uint8_t>() + i);
      have.insert(have.end(), part.begin(), part.end());
    }
    ASSERT_EQ(static_cast<std::int64_t>(have.size()), want.numel());
    // Q4_1 rounds the minimum, at most 15 scales, to the 11 bits of fp16.
    const float bound = one.type == GgufType::kQ4_1 ? 15.0f / 2048 : 0;
    const torch::Tensor error = (torch::tensor(have).view_as(want) - want).abs();
    const torch::Tensor scale = weight.scale.abs().repeat_interleave(one.scheme.group_columns(in), 1);
    EXPECT_TRUE((error <= bound * scale).all().item<bool>()) << one.scheme.bits << " bits: " << error.max();
  }
}

}  // namespace
}  // namespace roundtable
