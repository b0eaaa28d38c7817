// Micro-batches through a block with all that it may take and give.
#include "graph/states.h"

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "graph/block_loader.h"
#include "tests/graph/tiny_models.h"

namespace roundtable::testing {
namespace {

using torch::Tensor;

// hidden * seen + tokens; gives hidden + 1, and two numbers of each sample.
Model taking_model() {
  PartBuilder kind;
  const json hidden = kind.input("hidden"), tokens = kind.input("tokens"), seen = kind.input("carried", "seen");
  const json wide = kind.call("aten::unsqueeze", {tokens, -1});
  const json product = kind.call("aten::mul.Tensor", {hidden, seen});
  kind.output(kind.call("aten::add.Tensor", {product, wide}));
  kind.output(kind.call("aten::add.Tensor", {hidden, 1}), "carried", "next");
  kind.output(kind.call("aten::sum.dim_IntList", {hidden, json::array({1, 2})}), "carried", "sum");
  GraphFiles files = model_of(kind, {4, 8});
  json& model = files.model;
  for (const char* name : {"scale", "plus_one"}) model["boundary"][name] = model["boundary"]["hidden"];
  model["boundary"]["total"] = {{"shape", json::array()}, {"dtype", "float32"}};
  model["embed"]["outputs"].push_back({{"value", 2}, {"kind", "carried"}, {"name", "scale"}});
  model["blocks"][0]["takes"] = {{"seen", "scale"}};
  model["blocks"][0]["gives"] = {{"next", "plus_one"}, {"sum", "total"}};
  return {manifest_of(files), {}, {{"model_type", "llama"}}};
}

struct Chain {
  Model model = taking_model();
  Block block = BlockMaker(model, torch::kCPU).make({});
  States states{torch::randn({5, 4, 8}),
                {torch::randint(0, 16, {5, 4}), {{"scale", torch::randn({5, 4, 8})}, {"other", torch::randn({5, 3})}}}};
};

TEST(RunBlock, MicroBatchesGiveWhatOnePassGives) {
  torch::manual_seed(4);
  const Chain chain;
  EXPECT_TRUE(chain.model.takes_tokens());
  const Tensor hidden = chain.states.hidden, tokens = chain.states.side.tokens;
  const Tensor wanted = hidden * chain.states.side.carried.at("scale") + tokens.unsqueeze(-1);
  for (const std::int64_t micro_batch : {0, 1, 2, 3, 5, 7}) {
    const States out = run_block(chain.block, chain.states, micro_batch);
    EXPECT_TRUE(torch::equal(out.hidden, wanted)) << micro_batch;
    EXPECT_TRUE(torch::equal(out.side.tokens, tokens)) << micro_batch;
    ASSERT_EQ(out.side.carried.size(), 4U);
    EXPECT_TRUE(torch::equal(out.side.carried.at("plus_one"), hidden + 1)) << micro_batch;
    EXPECT_TRUE(torch::allclose(out.side.carried.at("total"), hidden.sum({1, 2}), 1e-5, 1e-5)) << micro_batch;
    for (const char* name : {"scale", "other"}) {
      EXPECT_TRUE(torch::equal(out.side.carried.at(name), chain.states.side.carried.at(name))) << name;
    }
    EXPECT_FALSE(out.hidden.requires_grad());
  }
  // What went in is as it was.
  EXPECT_EQ(chain.states.side.carried.size(), 2U);
  EXPECT_TRUE(torch::equal(chain.states.hidden, hidden));
}

// A block that gives what is there already writes into no memory of the caller's.
TEST(RunBlock, WhatIsGivenAgainIsNew) {
  Chain chain;
  const Tensor before = torch::zeros({5, 4, 8});
  chain.states.side.carried["plus_one"] = before;
  const States out = run_block(chain.block, chain.states, 2);
  EXPECT_TRUE(torch::equal(out.side.carried.at("plus_one"), chain.states.hidden + 1));
  EXPECT_TRUE(torch::equal(before, torch::zeros({5, 4, 8})));
}

TEST(States, RowsAndPartsAreOfEveryTensor) {
  const Chain chain;
  const States part = chain.states.narrow(1, 3);
  const States rows = chain.states.rows(torch::tensor({1, 2, 3}));
  EXPECT_EQ(part.size(), 3);
  EXPECT_TRUE(part.hidden.is_alias_of(chain.states.hidden));
  EXPECT_FALSE(rows.hidden.is_alias_of(chain.states.hidden));
  for (const States* some : {&part, &rows}) {
    EXPECT_TRUE(torch::equal(some->hidden, chain.states.hidden.narrow(0, 1, 3)));
    EXPECT_TRUE(torch::equal(some->side.tokens, chain.states.side.tokens.narrow(0, 1, 3)));
    for (const auto& [name, tensor] : chain.states.side.carried) {
      EXPECT_TRUE(torch::equal(some->side.carried.at(name), tensor.narrow(0, 1, 3))) << name;
    }
  }
  const States without{chain.states.hidden, {}};
  EXPECT_FALSE(without.rows(torch::tensor({0})).side.tokens.defined());
}

}  // namespace
}  // namespace roundtable::testing
