// Blocks read ahead are those that are read when they are asked for.
#include "graph/block_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <atomic>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "base/error.h"
#include "io/safetensors.h"
#include "model/load/stacked_rows.h"
#include "tests/graph/counting_allocator.h"
#include "tests/graph/stacked_graph.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

// Every tensor holds its block's number; one block may be broken.
class NumberedSource final : public TensorSource {
 public:
  torch::Tensor read(const ParameterSpec& spec) const override {
    const std::int64_t block = std::stol(spec.name.substr(std::string("model.layers.").size()));
    if (block == broken) throw bad_input("model.safetensors", "is cut short");
    if (std::this_thread::get_id() != asking_) ++read_ahead;
    return torch::full(spec.shape, static_cast<float>(block));
  }
  bool contains(const std::string&) const override { return true; }

  std::int64_t broken = -1;
  mutable std::atomic<int> read_ahead = 0;

 private:
  std::thread::id asking_ = std::this_thread::get_id();
};

class BlockLoaderTest : public ::testing::Test {
 protected:
  void expect_block(std::int64_t block) {
    const BlockWeights weights = loader_.load(block, 0);
    EXPECT_EQ(weights.block, block);
    ASSERT_EQ(weights.weights.size(), model_.linears(block).size());
    ASSERT_EQ(weights.others.size(), model_.table(block).others.size());
    for (std::size_t i = 0; i < weights.weights.size(); ++i) {
      const LinearSpec& linear = model_.linears(block)[i];
      EXPECT_EQ(weights.weights[i].sizes(), (std::vector{linear.out, linear.in})) << linear.name;
    }
    for (const auto* list : {&weights.weights, &weights.others}) {
      for (const torch::Tensor& tensor : *list) {
        EXPECT_TRUE(tensor.eq(static_cast<float>(block)).all().item<bool>());
      }
    }
  }
  int tensors() const { return static_cast<int>(model_.table(0).placed.size()); }

  Model model_ = testing::tiny_llama_model({.blocks = 4});
  NumberedSource source_;
  SelfCommunicator alone_;
  BlockLoader loader_{source_, model_, alone_};
};

TEST_F(BlockLoaderTest, ReadsWhenAsked) {
  expect_block(2);
  EXPECT_EQ(source_.read_ahead, 0);
}

TEST_F(BlockLoaderTest, LoadsAheadInAnotherThread) {
  loader_.load_ahead(1, 0);
  expect_block(1);
  EXPECT_EQ(source_.read_ahead, tensors());
  expect_block(2);
  EXPECT_EQ(source_.read_ahead, tensors());
}

// So that the tuner has layers that are quantized alike as one matrix, without a copy.
TEST_F(BlockLoaderTest, NeighboursLieBelowEachOther) {
  loader_.load_ahead(1, 0);
  for (const std::int64_t block : {1, 2}) {
    const std::vector<torch::Tensor> weights = loader_.load(block, 0).weights;
    EXPECT_EQ(stacked({weights[0], weights[1], weights[2]}).data_ptr(), weights[0].data_ptr()) << block;
  }
}

TEST_F(BlockLoaderTest, TheWrongGuessIsDropped) {
  loader_.load_ahead(1, 0);
  expect_block(3);
  loader_.load_ahead(2, 0);
  expect_block(2);
}

TEST_F(BlockLoaderTest, AnErrorShowsWhereTheBlockIsLoaded) {
  source_.broken = 2;
  loader_.load_ahead(2, 0);
  EXPECT_THROW(loader_.load(2, 0), Error);
  expect_block(1);
}

// ---- divided experts ---------------------------------------------------------------------------------------------

// Weights drawn by their names; notes what is read.
class DrawnSource final : public TensorSource {
 public:
  torch::Tensor read(const ParameterSpec& spec) const override {
    read_.insert(spec.name);
    torch::manual_seed(static_cast<std::uint64_t>(std::hash<std::string>()(spec.name)));
    return torch::randn(spec.shape);
  }
  bool contains(const std::string&) const override { return true; }
  std::set<std::string> take_read() const { return std::exchange(read_, {}); }

 private:
  mutable std::set<std::string> read_;
};

std::set<std::string> names_in_file(const Model& model, std::int64_t block, const ExpertPart& part) {
  std::set<std::string> names;
  const KindTable& table = model.table(block);
  for (const LinearSpec& linear : table.linears) {
    if (part.holds(linear.expert, table.experts)) names.insert(linear.below(model.block_prefix(block)).weight().name);
  }
  for (const ParameterSpec& other : table.others) names.insert(model.block_prefix(block) + other.name);
  return names;
}

TEST(DividedExperts, ARankReadsAndHoldsItsOwnAlone) {
  const Model model = testing::tiny_mixtral_model({.llama = {.blocks = 2}});
  const DrawnSource source;
  SelfCommunicator alone;
  const BlockWeights whole = BlockLoader(source, model, alone).load(1, 0);
  EXPECT_EQ(source.take_read(), names_in_file(model, 1, {}));
  for (const ExpertPart part : {ExpertPart{0, 2}, ExpertPart{1, 2}, ExpertPart{3, 4}}) {
    BlockLoader loader(source, model, alone, part, alone);
    loader.load_ahead(1, 0);
    const BlockWeights own = loader.load(1, 0);
    EXPECT_EQ(source.take_read(), names_in_file(model, 1, part)) << part.part;
    ASSERT_EQ(own.weights.size(), whole.weights.size());
    std::int64_t held = 0;
    for (std::size_t i = 0; i < own.weights.size(); ++i) {
      const LinearSpec& linear = model.linears(1)[i];
      ASSERT_EQ(own.weights[i].defined(), part.holds(linear.expert, 4)) << linear.name;
      if (!own.weights[i].defined()) continue;
      EXPECT_TRUE(torch::equal(own.weights[i], whole.weights[i])) << linear.name;
      held += linear.expert >= 0 ? 1 : 0;
    }
    EXPECT_EQ(held, 3 * 4 / part.parts);
    for (std::size_t i = 0; i < own.others.size(); ++i) EXPECT_TRUE(torch::equal(own.others[i], whole.others[i])) << i;
  }
}

// The record of what was read names each expert's part of a tensor.
TEST(DividedExperts, OfOneTensorOfAllExpertsItsOwnAreRead) {
  const Model model = testing::model_from(testing::stacked_files({.by_turns = true}));
  TemporaryFolder folder;
  std::vector<TensorView> views;
  const std::vector<float> numbers(4 * 64 * 64, 0.5f);
  std::set<std::string> seen;
  for (const PlacedTensor& placed : model.table(0).placed) {
    const ParameterSpec spec = placed.spec.below(model.block_prefix(0));
    if (!seen.insert(spec.tensor()).second) continue;
    std::vector<std::int64_t> shape = spec.stored_shape();
    if (spec.stack) shape.insert(shape.begin(), spec.stack->experts);
    views.push_back({spec.tensor(), ElementType::kF32, shape, numbers.data()});
  }
  write_safetensors(folder.path() + "/model.safetensors", views);
  folder.put("config.json", "{}");
  TensorRecord record;
  const CheckpointSource source(folder.path(), &record);
  SelfCommunicator alone;
  BlockLoader(source, model, alone, {1, 2}, alone).load(0, 0);
  std::set<std::string> read;
  for (const auto& [name, digest] : record.take_new()) read.insert(name);
  const std::string experts = "model.layers.0.mlp.experts.";
  EXPECT_EQ(read, (std::set<std::string>{experts + "down_proj[2]", experts + "down_proj[3]", experts + "down_proj_bias",
                                         experts + "gate_up_proj[2]", experts + "gate_up_proj[3]",
                                         experts + "gate_up_proj_bias", "model.layers.0.mlp.router.weight",
                                         "model.layers.0.self_attn.o_proj.weight"}));
}

TEST(DividedExperts, ABlockHasTheWeightsOfItsPartAndNoMemoryForOthers) {
  const Model model =
      testing::tiny_mixtral_model({.llama = {.hidden = 256, .intermediate = 256}, .experts = 8}, 16, torch::kBFloat16);
  const DrawnSource source;
  SelfCommunicator alone;
  const auto bytes_of = [](const std::vector<torch::Tensor>& tensors) {
    std::size_t bytes = 0;
    for (const torch::Tensor& tensor : tensors) {
      if (tensor.defined()) bytes += 2 * static_cast<std::size_t>(tensor.numel());
    }
    return bytes;
  };
  BlockMaker maker(model, torch::kCPU);
  for (const ExpertPart part : {ExpertPart{}, ExpertPart{1, 4}}) {
    const BlockWeights weights = BlockLoader(source, model, alone, part, alone).load(0, 0);
    const testing::CountingAllocator allocator;
    const Block block = maker.make(weights);
    const std::size_t held = bytes_of(weights.weights) + bytes_of(weights.others);
    EXPECT_LT(testing::CountingAllocator::peak_above(0), held + held / 20) << part.parts << " parts";
    EXPECT_GE(testing::CountingAllocator::now(), held);
    for (std::size_t i = 0; i < weights.weights.size(); ++i) {
      const Linear& linear = block.linears()[i];
      EXPECT_EQ(linear.name, model.linears(0)[i].name);
      ASSERT_EQ(linear.weight.defined(), weights.weights[i].defined()) << linear.name;
      if (!linear.weight.defined()) continue;
      EXPECT_TRUE(torch::equal(linear.weight, weights.weights[i].to(torch::kBFloat16))) << linear.name;
      EXPECT_TRUE(linear.weight.is_contiguous());
    }
  }
}

// The tuner writes into a block's weights, and compares with what was loaded.
TEST(DividedExperts, ABlocksWeightsAreCopies) {
  const Model model = testing::tiny_mixtral_model();
  const DrawnSource source;
  SelfCommunicator alone;
  const BlockWeights weights = BlockLoader(source, model, alone).load(0, 0);
  const Block block = BlockMaker(model, torch::kCPU).make(weights);
  for (std::size_t i = 0; i < weights.weights.size(); ++i) {
    EXPECT_NE(block.linears()[i].weight.const_data_ptr(), weights.weights[i].const_data_ptr());
  }
}

}  // namespace
}  // namespace roundtable
