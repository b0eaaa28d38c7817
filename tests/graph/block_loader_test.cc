// Blocks read ahead are those that are read when they are asked for.
#include "graph/block_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <atomic>
#include <thread>

#include "base/error.h"
#include "model/load/stacked_rows.h"
#include "tests/graph/tiny_models.h"

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

}  // namespace
}  // namespace roundtable
