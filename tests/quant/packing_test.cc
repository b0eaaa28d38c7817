// Packing against words written out by hand, and its inverse.
#include "quant/packing.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

namespace roundtable {
namespace {

TEST(Packing, FourBitsByHand) {
  torch::Tensor values = torch::zeros({32, 1}, torch::kUInt8);
  for (int i = 0; i < 8; ++i) values[i][0] = i + 1;
  const torch::Tensor words = pack_rows(values, 4);
  ASSERT_EQ(words.sizes(), (std::vector<std::int64_t>{4, 1}));
  EXPECT_EQ(static_cast<std::uint32_t>(words[0][0].item<std::int32_t>()), 0x87654321u);
  EXPECT_EQ(words[1][0].item<std::int32_t>(), 0);
}

TEST(Packing, ThreeBitsCrossWords) {
  torch::Tensor values = torch::zeros({32, 1}, torch::kUInt8);
  values[10][0] = 5;  // bits 30 to 32: 01 at the top of word 0, 1 at the bottom of word 1
  values[21][0] = 6;  // bits 63 to 65: 0 at the top of word 1, 11 at the bottom of word 2
  const torch::Tensor words = pack_rows(values, 3);
  ASSERT_EQ(words.size(0), 3);
  EXPECT_EQ(static_cast<std::uint32_t>(words[0][0].item<std::int32_t>()), 1u << 30);
  EXPECT_EQ(static_cast<std::uint32_t>(words[1][0].item<std::int32_t>()), 1u);
  EXPECT_EQ(static_cast<std::uint32_t>(words[2][0].item<std::int32_t>()), 3u);
}

TEST(Packing, UnpackingInverts) {
  torch::manual_seed(3);
  for (const int bits : {2, 3, 4, 8}) {
    for (const std::int64_t rows : {96, 33, 24, 1}) {  // the last word may be filled in part
      const torch::Tensor values = torch::randint(0, 1 << bits, {rows, 7}, torch::kUInt8);
      const torch::Tensor words = pack_rows(values, bits);
      EXPECT_EQ(words.size(0), (rows * bits + 31) / 32);
      EXPECT_TRUE(torch::equal(unpack_rows(words, bits, rows), values)) << bits;
    }
  }
}

}  // namespace
}  // namespace roundtable
