// Ranks in groups that divide the experts of a block: each loads its own part, and no tensor is read twice.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "comm/agree.h"
#include "graph/block_loader.h"
#include "tests/graph/tiny_models.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

using ::testing::HasSubstr;
using testing::world;

// Every tensor holds a number that follows from its name; one may be broken. Counts reads.
class CountingSource final : public TensorSource {
 public:
  torch::Tensor read(const ParameterSpec& spec) const override {
    ++reads[spec.name];
    if (spec.name.find(broken) != std::string::npos) throw bad_input(spec.name, "is cut short");
    return torch::full(spec.shape, value_of(spec.name));
  }
  bool contains(const std::string&) const override { return true; }
  static double value_of(const std::string& name) {
    double value = 0;
    for (const char c : name) value = std::fmod(value * 3 + c, 65521);
    return value;
  }

  std::string broken = "nothing";
  mutable std::map<std::string, int> reads;
};

class DividedLoader : public ::testing::TestWithParam<int> {
 protected:
  static constexpr std::int64_t kBlocks = 4;

  DividedLoader() {
    const int rank = world().rank();
    part_ = {rank % shards_, shards_};
    comm_ = world().duplicate();
    holders_ = world().split(part_.part, rank);
    loader_.emplace(source_, model_, *comm_, part_, *holders_);
  }
  // As ranks take turns in the float pass.
  static int reader(std::int64_t block) { return static_cast<int>(block % world().size()); }

  int shards_ = std::min(GetParam(), world().size());
  Model model_ = testing::tiny_mixtral_model({.llama = {.blocks = kBlocks}});
  CountingSource source_;
  ExpertPart part_;
  std::unique_ptr<MpiCommunicator> comm_, holders_;
  std::optional<BlockLoader> loader_;
};

TEST_P(DividedLoader, EachTensorIsReadOnceAndReachesItsHolders) {
  for (std::int64_t block = 0; block < kBlocks; ++block) {
    const BlockWeights weights = loader_->load(block, reader(block));
    if (block + 1 < kBlocks) loader_->load_ahead(block + 1, reader(block + 1));
    const KindTable& table = model_.table(block);
    for (std::size_t i = 0; i < table.placed.size(); ++i) {
      const bool linear = i < table.linears.size();
      const torch::Tensor& tensor = linear ? weights.weights[i] : weights.others[i - table.linears.size()];
      const bool held = !linear || part_.holds(table.linears[i].expert, table.experts);
      ASSERT_EQ(tensor.defined(), held) << table.placed[i].spec.name;
      if (!held) continue;
      const std::string name = model_.block_prefix(block) + table.placed[i].spec.name;
      EXPECT_TRUE(tensor.eq(static_cast<float>(CountingSource::value_of(name))).all().item<bool>()) << name;
    }
  }
  std::map<std::string, int> reads;
  int most = 0;
  for (const std::string& text : all_gather_text(world(), nlohmann::json(source_.reads).dump())) {
    int of_rank = 0;
    for (const auto& [name, count] : nlohmann::json::parse(text).get<std::map<std::string, int>>()) {
      reads[name] += count;
      of_rank += count;
    }
    most = std::max(most, of_rank);
  }
  std::size_t all = 0;
  for (std::int64_t block = 0; block < kBlocks; ++block) all += model_.table(block).placed.size();
  EXPECT_EQ(reads.size(), all);
  for (const auto& [name, count] : reads) EXPECT_EQ(count, 1) << name;
  if (world().size() > 1) EXPECT_LT(most, static_cast<int>(all));
}

TEST_P(DividedLoader, AnErrorOfOneReaderIsThrownOnAllRanks) {
  source_.broken = "model.layers.2.block_sparse_moe.experts.3.w2";
  loader_->load(1, reader(1));
  try {
    loader_->load(2, reader(2));
    FAIL() << "an error was to be thrown";
  } catch (const AgreedError& error) {
    EXPECT_THAT(error.what(), HasSubstr("experts.3.w2.weight: is cut short"));
  }
  EXPECT_TRUE(loader_->load(3, reader(3)).others.front().defined());
}

INSTANTIATE_TEST_SUITE_P(Shards, DividedLoader, ::testing::Values(1, 2, 4));

}  // namespace
}  // namespace roundtable
