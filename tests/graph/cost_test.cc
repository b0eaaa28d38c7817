// What a kind of block costs, by hand.
#include "graph/cost.h"

#include <gtest/gtest.h>

#include "model/attention/attention.h"
#include "tests/graph/tiny_models.h"

namespace roundtable::testing {
namespace {

constexpr double kWidth = 64, kInner = 96, kRows = 64, kKvRows = 32, kHeads = 4, kHeadDim = 16, kSeqlen = 128;
constexpr double kInputs = kWidth * (kRows + 2 * kKvRows);  // of q, k and v
constexpr double kWeights = kInputs + kRows * kWidth + 3 * kInner * kWidth;

TEST(KindCost, OfALlamaBlock) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const KindCost cost = count_kind(tiny_llama_model({}, static_cast<std::int64_t>(kSeqlen), dtype), 0);
    EXPECT_EQ(cost.parameters, kWeights);
    EXPECT_EQ(cost.active, kWeights);
    EXPECT_EQ(cost.largest, kInner * kWidth);
    EXPECT_EQ(cost.input_parameters, kInputs);
    EXPECT_EQ(cost.other_parameters, 2 * kWidth);
    EXPECT_EQ(cost.other_flops, 0);
    // Scores and mixed values; a row sees half of the others, and half a tile more.
    const double share = (kSeqlen + kAttentionTileRows) / 2 / kSeqlen;
    EXPECT_DOUBLE_EQ(cost.attention_flops, 2 * kHeads * kSeqlen * (kHeadDim + kHeadDim) * share);
    EXPECT_LT(share, 1);
    // Both norms, o, down and two sums; q, q turned and attention; k, k turned and v; gate, up and their product.
    EXPECT_DOUBLE_EQ(cost.kept, 6 * kWidth + 3 * kRows + 3 * kKvRows + 3 * kInner);
    EXPECT_DOUBLE_EQ(cost.spare, 3 * kInner + 2 * kWidth);
    EXPECT_TRUE(cost.plain_attention);
    EXPECT_EQ(cost.window, 0);
  }
}

TEST(KindCost, AWindowBoundsAttention) {
  GraphFiles files = llama_model({}, 256, torch::kFloat32);
  for (json& node : files.model["kinds"][0]["nodes"]) {
    if (node["op"] == "rt::attention") node["args"][7] = 32;
  }
  const KindCost cost = count_kind(model_from(files), 0);
  EXPECT_EQ(cost.window, 32);
  const double seen = 32 - 32.0 * 32 / (2 * 256);  // of the first 32 positions each sees fewer
  EXPECT_DOUBLE_EQ(cost.attention_flops, 2 * kHeads * (kHeadDim + kHeadDim) * (seen + kAttentionTileRows / 2.0));
}

// Of four experts a token meets two; the router is no layer that is tuned.
TEST(KindCost, OfAMixture) {
  const KindCost cost = count_kind(tiny_mixtral_model(), 0);
  const double attention = kInputs + kRows * kWidth, expert = 3 * kInner * kWidth;
  EXPECT_EQ(cost.parameters, attention + 4 * expert);
  EXPECT_EQ(cost.active, attention + 2 * expert);
  EXPECT_EQ(cost.input_parameters, kInputs);
  EXPECT_EQ(cost.other_flops, 2 * 4 * kWidth);
  EXPECT_EQ(cost.other_parameters, 2 * kWidth + 4 * kWidth);
}

}  // namespace
}  // namespace roundtable::testing
