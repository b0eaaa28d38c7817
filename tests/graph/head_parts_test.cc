// Heads of all shapes that models have, cut or not: a few positions give the logits that the whole head gives them.
#include "graph/head_parts.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <functional>

#include "graph/run/program.h"
#include "tests/graph/llama_graph.h"

namespace roundtable::testing {
namespace {

constexpr std::int64_t kSeqlen = 8, kWidth = 16;

using Make = std::function<json(PartBuilder&, const json& hidden, const json& weight)>;

GraphPart head_of(const Make& make) {
  Ends ends{PartBuilder(), PartBuilder()};
  const json table = ends.embed.parameter("embed.weight", {ends.vocab, kWidth}, "embedding");
  ends.embed.output(ends.embed.call("aten::embedding", {table, ends.embed.input("tokens")}));
  const json weight = ends.head.parameter("lm_head.weight", {ends.vocab, kWidth}, "linear");
  const json hidden = ends.head.input("hidden");
  ends.head.output(make(ends.head, hidden, weight), "logits");
  PartBuilder kind;
  kind.output(kind.call("aten::neg", {kind.input("hidden")}));
  return manifest_of(model_of(kind, {kSeqlen, kWidth}, 1, ends)).head;
}

json normalized(PartBuilder& head, const json& hidden) {
  return rms_norm_nodes(head, hidden, head.parameter("model.norm.weight", {kWidth}), 1e-5);
}

// Whether the head is cut; if so, that both parts give what the whole gives.
bool is_cut(const Make& make) {
  torch::manual_seed(2);
  const GraphPart head = head_of(make);
  const TensorsByName parameters = random_parameters(head, 1);
  const torch::Tensor hidden = torch::randn({2, kSeqlen, kWidth});
  const torch::Tensor whole = Program(head, {}, torch::kCPU).forward({hidden, {}, {}}, parameters).hidden;
  const HeadParts parts = cut_head(head);
  const torch::Tensor features =
      Program(parts.features, {}, torch::kCPU).forward({hidden, {}, {}}, parameters).hidden.flatten(0, -2);
  if (!parts.logits) {
    EXPECT_TRUE(features.equal(whole.flatten(0, -2)));
    return false;
  }
  EXPECT_EQ(parts.features.parameters.count("lm_head.weight"), 0u);
  EXPECT_EQ(parts.logits->parameters.count("model.norm.weight"), 0u);
  EXPECT_EQ(parts.features.tensors.size() + parts.logits->tensors.size(), head.tensors.size());
  const Program logits(*parts.logits, {}, torch::kCPU);
  for (const auto& [first, n] : {std::pair{0, 16}, {3, 1}, {5, 7}}) {
    const torch::Tensor piece = logits.forward({features.narrow(0, first, n), {}, {}}, parameters).hidden;
    EXPECT_LT(relative_difference(piece, whole.flatten(0, -2).narrow(0, first, n)), 1e-6);
  }
  return true;
}

TEST(HeadParts, AProductAloneAndOneBehindANorm) {
  EXPECT_TRUE(is_cut([](PartBuilder& head, const json& hidden, const json& weight) {
    return head.call("aten::linear", {hidden, weight});
  }));
  EXPECT_TRUE(is_cut([](PartBuilder& head, const json& hidden, const json& weight) {
    return head.call("aten::linear", {normalized(head, hidden), weight});
  }));
}

TEST(HeadParts, ABiasAndASoftCap) {
  EXPECT_TRUE(is_cut([](PartBuilder& head, const json& hidden, const json& weight) {
    const json bias = head.parameter("lm_head.bias", {16});
    const json x = head.call("aten::linear", {normalized(head, hidden), weight, bias});
    const json capped = head.call("aten::tanh", {head.call("aten::div.Tensor", {x, 12.0})});
    return head.call("aten::mul.Tensor", {capped, 12.0});
  }));
}

TEST(HeadParts, WhatMixesPositionsOrTokensStaysWhole) {
  EXPECT_FALSE(is_cut([](PartBuilder& head, const json& hidden, const json& weight) {
    return head.call("aten::softmax.int", {head.call("aten::linear", {hidden, weight}), -1});
  }));
  EXPECT_FALSE(is_cut([](PartBuilder& head, const json& hidden, const json& weight) {
    const json x = head.call("aten::linear", {hidden, weight});
    return head.call("aten::mul.Tensor", {x, head.call("aten::tanh", {x})});
  }));
}

}  // namespace
}  // namespace roundtable::testing
