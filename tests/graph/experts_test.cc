// Experts divided over the ranks of a group: the graph with the exchange in it, and results and gradients of a block of
// which each rank holds some of the experts, compared with those of one that has all.
#include "graph/experts/divide.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "graph/block_loader.h"
#include "graph/expert_part.h"
#include "graph/states.h"
#include "model/load/tensor_span.h"
#include "tests/graph/tiny_models.h"
#include "tests/mpi_main.h"

namespace roundtable::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using torch::Tensor;

constexpr std::int64_t kExperts = 8;

Model tiny_model() { return tiny_mixtral_model({.llama = {}, .experts = kExperts}); }

std::vector<std::string> experts_nodes(const GraphPart& part) {
  std::vector<std::string> ops;
  for (const GraphNode& node : part.nodes) {
    if (node.op.starts_with("rt::d") || node.op.starts_with("rt::e") || node.op.starts_with("rt::c") ||
        node.op.ends_with("_owners")) {
      ops.push_back(node.op.substr(node.op.find("::") + 2));
    }
  }
  return ops;
}

TEST(DivideExperts, RowsLeaveBeforeTheFirstProductAndReturnBehindTheLast) {
  const GraphPart part = tiny_model().graphs().kinds[0];
  const GraphPart divided = divide_experts(part);
  EXPECT_THAT(experts_nodes(divided),
              ElementsAre("dispatch", "to_owners", "expert_linear", "expert_linear", "from_owners", "combine"));
  EXPECT_EQ(divided.nodes.size(), part.nodes.size() + 2);
}

TEST(DivideExperts, APartWithoutExpertsStaysAsItIs) {
  const GraphPart part = tiny_llama_model().graphs().kinds[0];
  EXPECT_EQ(divide_experts(part).nodes.size(), part.nodes.size());
}

// x -> dispatch -> a product -> what `between` makes of it and of the rows -> another product -> combine.
GraphPart two_products(const std::function<json(PartBuilder&, const json& rows, const json& first, const json& order)>& between) {
  PartBuilder kind;
  const json x = kind.call("aten::reshape", {kind.input("hidden"), json::array({-1, 8})});
  const json router = kind.parameter("gate.weight", {4, 8}, "router");
  const json up = kind.bare_parameter("up", {4, 8, 8}), down = kind.bare_parameter("down", {4, 8, 8});
  for (std::int64_t e = 0; e < 4; ++e) {
    kind.tensor("experts." + std::to_string(e) + ".up.weight", "up", e * 64, {8, 8}, {8, 1});
    kind.tensor("experts." + std::to_string(e) + ".down.weight", "down", e * 64, {8, 8}, {8, 1});
  }
  const auto best = kind.call_all("aten::topk", {kind.call("aten::linear", {x, router}), 2}, 2);
  const auto rows = kind.call_all("rt::dispatch", {x, best[1], 4}, 3);
  const json first = kind.call("rt::expert_linear", {rows[0], up, nullptr, rows[1], false});
  const json second =
      kind.call("rt::expert_linear", {between(kind, rows[0], first, rows[2]), down, nullptr, rows[1], false});
  const json mixed = kind.call("rt::combine", {second, best[0], rows[2]});
  kind.output(kind.call("aten::reshape", {mixed, json::array({-1, 4, 8})}));
  return model_from(model_of(kind, {4, 8})).graphs().kinds[0];
}

TEST(DivideExperts, WhatNeedsTheRowsInTheirPlacesHasThem) {
  // An activation works row by row: it is computed where the expert is.
  const GraphPart plain = two_products(
      [](PartBuilder& kind, const json&, const json& first, const json&) { return kind.call("aten::silu", {first}); });
  EXPECT_THAT(experts_nodes(divide_experts(plain)),
              ElementsAre("dispatch", "to_owners", "expert_linear", "expert_linear", "from_owners", "combine"));
  // A sum with the rows that were sent does not: they are here.
  const GraphPart sum = two_products([](PartBuilder& kind, const json& rows, const json& first, const json&) {
    return kind.call("aten::add.Tensor", {first, rows});
  });
  EXPECT_THAT(experts_nodes(divide_experts(sum)),
              ElementsAre("dispatch", "to_owners", "expert_linear", "from_owners", "to_owners", "expert_linear",
                          "from_owners", "combine"));
  // Neither does a sum over rows.
  const GraphPart mean = two_products([](PartBuilder& kind, const json&, const json& first, const json&) {
    return kind.call("aten::sub.Tensor", {first, kind.call("aten::mean.dim", {first, json::array({0}), true})});
  });
  EXPECT_THAT(experts_nodes(divide_experts(mean)),
              ElementsAre("dispatch", "to_owners", "expert_linear", "from_owners", "to_owners", "expert_linear",
                          "from_owners", "combine"));
}

// An activation without gradients is no part of what travels: its place in the graph says where gradients end.
TEST(DivideExperts, AnActivationWithoutGradientsHasItsRowsHere) {
  GraphPart part = two_products(
      [](PartBuilder& kind, const json&, const json& first, const json&) { return kind.call("aten::silu", {first}); });
  for (GraphNode& node : part.nodes) node.no_grad = node.op == "aten::silu";
  EXPECT_THAT(experts_nodes(divide_experts(part)),
              ElementsAre("dispatch", "to_owners", "expert_linear", "from_owners", "to_owners", "expert_linear",
                          "from_owners", "combine"));
}

TEST(DivideExperts, RowsThatLeaveThePartAreInTheirPlaces) {
  GraphPart part = two_products([](PartBuilder&, const json&, const json& first, const json&) { return first; });
  const auto product = std::find_if(part.nodes.begin(), part.nodes.end(),
                                    [](const GraphNode& node) { return node.op == "rt::expert_linear"; });
  part.outputs.front().value = *product->out.front();
  const GraphPart divided = divide_experts(part);
  const GraphNode& last = divided.nodes.back();
  EXPECT_EQ(last.op, "fused::from_owners");
  EXPECT_EQ(divided.outputs.front().value, last.out.front());
}

// Rows of one dispatch, taken with the ends of another: each product has the rows where its own experts are.
TEST(DivideExperts, EachDispatchHasAWayOfItsOwn) {
  const auto part = [](bool chained) {
    PartBuilder kind;
    const json x = kind.call("aten::reshape", {kind.input("hidden"), json::array({-1, 8})});
    const json up = kind.bare_parameter("up", {4, 8, 8}), down = kind.bare_parameter("down", {4, 8, 8});
    for (std::int64_t e = 0; e < 4; ++e) {
      kind.tensor("experts." + std::to_string(e) + ".up.weight", "up", e * 64, {8, 8}, {8, 1});
      kind.tensor("experts." + std::to_string(e) + ".down.weight", "down", e * 64, {8, 8}, {8, 1});
    }
    const auto best = kind.call_all("aten::topk", {kind.call("aten::slice.Tensor", {x, 1, 0, 4}), 2}, 2);
    const auto one = kind.call_all("rt::dispatch", {x, best[1], 4}, 3), two = kind.call_all("rt::dispatch", {x, best[1], 4}, 3);
    const json first = kind.call("rt::expert_linear", {one[0], up, nullptr, one[1], false});
    const json second = kind.call("rt::expert_linear", {chained ? first : one[0], down, nullptr, two[1], false});
    const json sum = chained ? second : kind.call("aten::add.Tensor", {first, second});
    kind.output(kind.call("aten::reshape", {kind.call("rt::combine", {sum, best[0], one[2]}), json::array({-1, 4, 8})}));
    return model_from(model_of(kind, {4, 8})).graphs().kinds[0];
  };
  EXPECT_THAT(experts_nodes(divide_experts(part(true))),
              ElementsAre("dispatch", "dispatch", "to_owners", "expert_linear", "from_owners", "to_owners",
                          "expert_linear", "from_owners", "combine"));
  EXPECT_THAT(experts_nodes(divide_experts(part(false))),
              ElementsAre("dispatch", "dispatch", "to_owners", "expert_linear", "to_owners", "expert_linear",
                          "from_owners", "from_owners", "combine"));
}

// --- a block ----------------------------------------------------------------------------------------------------------

// Weights that every rank knows, and this rank's samples.
struct Problem {
  Model model = tiny_model();
  BlockWeights weights;
  Tensor x;

  Problem() {
    torch::manual_seed(4);
    for (const LinearSpec& linear : model.linears(0)) {
      weights.weights.push_back(torch::randn({linear.out, linear.in}) / std::sqrt(static_cast<double>(linear.in)));
    }
    for (const ParameterSpec& other : model.table(0).others) {
      weights.others.push_back(other.shape.size() == 1 ? torch::ones(other.shape) : torch::randn(other.shape));
    }
    torch::manual_seed(100 + world().rank());
    x = torch::randn({3, model.seqlen(), 64});
  }

  // Of the tokens of this rank the first element; the router's weight for it, expert by expert. So the choice is ours.
  void steer(double first, const std::vector<std::pair<std::int64_t, double>>& weights_of_experts) {
    x.select(-1, 0).fill_(first);
    for (std::size_t i = 0; i < weights.others.size(); ++i) {
      if (model.table(0).others[i].shape.size() != 2) continue;
      for (const auto& [expert, weight] : weights_of_experts) weights.others[i][expert][0] = weight;
    }
  }
};

struct Result {
  Tensor y, dx;
  std::map<std::string, Tensor> gradients;  // of layers
  std::vector<std::int64_t> tokens;
};

Result run(const Problem& problem, std::shared_ptr<ExpertExchange> exchange, const ExpertPart& part, bool idle = false) {
  Block block = BlockMaker(problem.model, torch::kCPU, std::move(exchange)).make(problem.weights);
  Result result;
  for (std::size_t i = 0; i < block.linears().size(); ++i) {
    Linear& linear = block.linears()[i];
    if (!part.holds(problem.model.linears(0)[i].expert, kExperts)) {
      linear.weight = torch::Tensor();
      continue;
    }
    linear.weight = linear.weight.detach().clone().requires_grad_();
    linear.take_gradient = [&result, name = linear.name](const Tensor& gradient) {
      EXPECT_FALSE(result.gradients.contains(name)) << name;
      result.gradients[name] = gradient.detach().clone();
    };
  }
  const Tensor x = problem.x.detach().clone().requires_grad_();
  SideTensors side;
  result.y = idle ? block.forward_idle(x, side) : block.forward(x, side);
  torch::manual_seed(200 + world().rank());
  const Tensor upstream = torch::randn(result.y.sizes());
  result.y.backward(idle ? torch::zeros_like(upstream) : upstream);
  result.dx = x.grad();
  result.tokens = block.expert_tokens();
  return result;
}

// `bytes` that this rank sent in a forward and a backward pass, by hand: rows of 64 floats for experts of others leave, as
// rows and as gradients, and what it made of the others' rows returns. `tokens`: of this rank, by expert.
void expect_bytes(std::int64_t bytes, const std::vector<std::int64_t>& tokens) {
  const std::int64_t held = kExperts / world().size();
  std::int64_t rows = 0;
  std::vector<std::int64_t> all(static_cast<std::size_t>(world().size()) * kExperts);
  std::copy(tokens.begin(), tokens.end(), all.begin() + world().rank() * kExperts);
  world().all_reduce_sum(host_span(all));
  for (std::int64_t i = 0; i < std::ssize(all); ++i) {
    const bool from_here = i / kExperts == world().rank(), to_here = i % kExperts / held == world().rank();
    if (from_here != to_here) rows += all[static_cast<std::size_t>(i)];
  }
  EXPECT_EQ(bytes, 2 * rows * 64 * static_cast<std::int64_t>(sizeof(float)));
}

// The whole block on each rank alone, gradients summed over the ranks here, compared with the divided one.
void expect_the_same(const Problem& problem, bool idle = false) {
  const ExpertPart part{world().rank(), world().size()};
  auto exchange = std::make_shared<ExpertExchange>(ExpertExchange{TensorGroup(world())});
  const Result divided = run(problem, exchange, part, idle);
  const Result whole = run(problem, nullptr, {}, false);
  if (!idle) {
    EXPECT_LE(relative_difference(divided.y.detach(), whole.y.detach()), 1e-6);
    EXPECT_LE(relative_difference(divided.dx, whole.dx), 1e-5);
    EXPECT_EQ(divided.tokens, whole.tokens);
  }
  for (std::size_t i = 0; i < problem.model.linears(0).size(); ++i) {
    const LinearSpec& linear = problem.model.linears(0)[i];
    const auto found = whole.gradients.find(linear.name);
    Tensor wanted = found == whole.gradients.end() || idle ? torch::zeros({linear.out, linear.in}) : found->second;
    world().all_reduce_sum(host_span(wanted));
    const auto mine = divided.gradients.find(linear.name);
    if (linear.expert >= 0 && part.holds(linear.expert, kExperts)) {
      // An expert that no rank's tokens reach has no gradient.
      EXPECT_EQ(mine != divided.gradients.end(), wanted.abs().max().item<double>() > 0) << linear.name;
      if (mine != divided.gradients.end()) {
        EXPECT_LE(relative_difference(mine->second, wanted), 1e-5) << linear.name;
      }
    } else if (linear.expert >= 0) {
      EXPECT_EQ(mine, divided.gradients.end()) << linear.name;
    } else {
      Tensor sum = mine->second;
      world().all_reduce_sum(host_span(sum));
      EXPECT_LE(relative_difference(sum, wanted), 1e-5) << linear.name;
    }
  }
  expect_bytes(exchange->figures.bytes, divided.tokens);
}

TEST(DividedBlock, GivesWhatTheWholeBlockGives) { expect_the_same(Problem()); }

TEST(DividedBlock, AnExpertThatNoTokenReaches) {
  Problem problem;
  problem.steer(5, {{3, -10}, {4, -10}});
  expect_the_same(problem);
}

TEST(DividedBlock, AnExpertWhoseTokensAllComeFromOneRank) {
  Problem problem;
  problem.steer(world().rank() == world().size() - 1 ? 5 : -5, {{2, 10}});
  expect_the_same(problem);
}

TEST(DividedBlock, ARankWithoutATokenForItsExperts) {
  Problem problem;
  std::vector<std::pair<std::int64_t, double>> unwanted;
  for (std::int64_t e = 0; e < kExperts / world().size() && world().size() > 1; ++e) unwanted.push_back({e, -10});
  problem.steer(5, unwanted);
  expect_the_same(problem);
}

// The first rank has no sample, but holds experts of the others' tokens.
TEST(DividedBlock, ARankWithoutSamplesTakesPart) {
  const Problem problem;
  const bool idle = world().rank() == 0;
  const ExpertPart part{world().rank(), world().size()};
  auto exchange = std::make_shared<ExpertExchange>(ExpertExchange{TensorGroup(world())});
  const Result divided = run(problem, exchange, part, idle);
  const Result whole = run(problem, nullptr, {});
  expect_bytes(exchange->figures.bytes, divided.tokens);  // rows of no sample stay: observers would see them
  if (!idle) {
    EXPECT_LE(relative_difference(divided.y.detach(), whole.y.detach()), 1e-6);
  }
  if (idle) {
    EXPECT_THAT(divided.tokens, ::testing::Each(0));
  }
  for (const LinearSpec& linear : problem.model.linears(0)) {
    const auto found = whole.gradients.find(linear.name);
    Tensor wanted = found == whole.gradients.end() || idle ? torch::zeros({linear.out, linear.in}) : found->second;
    world().all_reduce_sum(host_span(wanted));
    if (linear.expert < 0 || !part.holds(linear.expert, kExperts) || wanted.abs().max().item<double>() == 0) continue;
    ASSERT_TRUE(divided.gradients.contains(linear.name)) << linear.name;
    EXPECT_LE(relative_difference(divided.gradients.at(linear.name), wanted), 1e-5) << linear.name;
  }
}

// As in LongCat-Flash: a token's choice may be behind the last expert, and then nobody takes its row. What comes back for
// it is zeros, and its gradient is zeros, too.
TEST(DividedBlock, RowsThatNoExpertTakes) {
  GraphFiles files = mixtral_model({.llama = {}, .experts = kExperts}, 16, torch::kFloat32);
  json& kind = files.model["kinds"][0];
  json moved = json::array();
  for (json& node : kind["nodes"]) {
    if (node["op"] == "rt::dispatch") {
      // index + 1: the choice of the last expert is nobody's
      const int value = kind["values"].get<int>();
      kind["values"] = value + 1;
      moved.push_back({{"op", "aten::add.Tensor"}, {"args", json::array({node["args"][1], 1})},
                       {"out", json::array({value})}, {"bytes", 0}, {"flops", 0}});
      node["args"][1] = {{"v", value}};
    }
    moved.push_back(node);
  }
  kind["nodes"] = moved;
  files.model["operators"]["aten::add.Tensor"] = schema_text("aten::add.Tensor");
  Problem problem;
  problem.model = model_from(files);
  expect_the_same(problem);
}

// Only one rank tunes its experts: the others take part in the backward pass all the same.
TEST(DividedBlock, RanksThatTuneNothingTakePartInTheBackwardPass) {
  const Problem problem;
  auto exchange = std::make_shared<ExpertExchange>(ExpertExchange{TensorGroup(world())});
  Block block = BlockMaker(problem.model, torch::kCPU, exchange).make(problem.weights);
  std::size_t taken = 0;
  for (std::size_t i = 0; i < block.linears().size(); ++i) {
    const std::int64_t expert = problem.model.linears(0)[i].expert;
    if (expert < 0 || world().rank() > 0 || !ExpertPart{0, world().size()}.holds(expert, kExperts)) continue;
    Linear& linear = block.linears()[i];
    linear.weight = linear.weight.detach().clone().requires_grad_();
    linear.take_gradient = [&](const Tensor&) { ++taken; };
  }
  const Tensor y = block.forward(problem.x);
  y.sum().backward();
  EXPECT_EQ(taken > 0, world().rank() == 0);
}

TEST(DividedBlock, PassesOfAllSamplesAreAsManyOnEachRank) {
  const Problem problem;
  auto exchange = std::make_shared<ExpertExchange>(ExpertExchange{TensorGroup(world())});
  const Block block = BlockMaker(problem.model, torch::kCPU, exchange).make(problem.weights);
  const Block whole = BlockMaker(problem.model, torch::kCPU).make(problem.weights);
  const std::int64_t n = world().rank() % 4;  // the first rank has none
  const States mine{problem.x.narrow(0, 0, n), {}};
  const States out = run_block(block, mine, 1);
  ASSERT_EQ(out.size(), n);
  if (n > 0) {
    EXPECT_LE(relative_difference(out.hidden, run_block(whole, mine, 1).hidden), 1e-6);
  }
}

}  // namespace
}  // namespace roundtable::testing
