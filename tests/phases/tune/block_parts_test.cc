// The files of a block whose experts the ranks of a group divide: together they hold what one file holds, and a replay
// gives each rank its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "base/hash.h"
#include "comm/agree.h"
#include "export/registry.h"
#include "io/safetensors.h"
#include "phases/tune/block_file.h"
#include "tests/graph/stacked_graph.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

using ::testing::HasSubstr;
using testing::world;

std::string content_by_tensor(const SafetensorsFile& file, std::map<std::string, std::string>& contents) {
  for (const auto& [name, info] : file.tensors()) {
    std::string bytes(info.bytes, 0);
    file.read(info, bytes.data());
    if (!contents.emplace(name, std::string(safetensors_dtype(info.type)) + bytes).second) return name;
  }
  return "";
}

// Two blocks of one kind, of which the second is written; all but one layer of one expert are quantized.
class BlockParts : public ::testing::Test {
 protected:
  void set_up(const Model& model) {
    plan_.model = model;
    plan_.tuned = as_packed(format_named("auto_round:auto_gptq", "test"));
    plan_.outside_files.resize(1);
    plan_.shards = plan_.expert_parts = world().size();
    part_ = plan_.expert_part(world().rank());
    const KindTable& table = model.table(kBlock);
    torch::manual_seed(5);
    BlockSchemes schemes;
    for (const LinearSpec& linear : table.linears) {
      whole_.weights.push_back(torch::randn({linear.out, linear.in}));
      schemes.emplace_back(QuantScheme{4, 32, true, true, true, 1});
      plan_.stacks_apart = plan_.stacks_apart || linear.stack;
    }
    schemes.back().reset();
    for (const ParameterSpec& other : table.others) whole_.others.push_back(torch::randn(other.shape));
    plan_.schemes = {schemes, schemes};
    own_ = whole_;
    for (std::size_t i = 0; i < table.linears.size(); ++i) {
      tuned_.weights.emplace_back();
      if (schemes[i]) tuned_.weights[i] = round_to_nearest(whole_.weights[i], *schemes[i]);
      const bool held = part_.holds(table.linears[i].expert, table.experts);
      own_tuned_.weights.push_back(held ? tuned_.weights[i] : std::nullopt);
      if (!held) own_.weights[i] = torch::Tensor();
    }
    folder_ = broadcast_text(world(), temporary_.path(), 0);
  }
  std::optional<BlockFile> write() {
    std::optional<BlockFile> mine;
    run_on_all(world(), [&] { mine = write_block_file(folder_, plan_, kBlock, part_, own_, own_tuned_); });
    return mine;
  }
  // What a block in one file holds, written by this rank into a folder of its own.
  std::map<std::string, std::string> in_one_file() {
    Plan plan = plan_;
    plan.expert_parts = 1;
    const BlockFile file = write_block_file(temporary_.path(), plan, kBlock, {}, whole_, tuned_);
    std::map<std::string, std::string> contents;
    content_by_tensor(SafetensorsFile(temporary_.path() + "/" + file.name), contents);
    return contents;
  }

  void expect_that_parts_hold_what_one_file_holds() {
    const std::vector<BlockFile> files = gather_block_files(write(), world());
    ASSERT_EQ(std::ssize(files), world().size());
    std::map<std::string, std::string> contents;
    for (int part = 0; part < world().size(); ++part) {
      const BlockFile& file = files[static_cast<std::size_t>(part)];
      EXPECT_EQ(file.name, plan_.block_file(kBlock, part));
      const std::string path = folder_ + "/" + file.name;
      EXPECT_EQ(file.digest, hash_file(path));
      EXPECT_EQ(file.bytes, std::filesystem::file_size(path));
      EXPECT_EQ(content_by_tensor(SafetensorsFile(path), contents), "") << "is in two files";
    }
    EXPECT_EQ(contents, in_one_file());
    for (const auto& [name, type] : types_) EXPECT_TRUE(contents.at(name).starts_with(type)) << name;
  }

  void TearDown() override { world().barrier(); }  // the folder of rank 0 is in use until then

  static constexpr std::int64_t kBlock = 1;
  Plan plan_;
  ExpertPart part_;
  BlockWeights whole_, own_;
  TunedBlock tuned_, own_tuned_;
  std::map<std::string, std::string> types_;  // of some tensors that must be there
  TemporaryFolder temporary_;
  std::string folder_;
};

TEST_F(BlockParts, TogetherHoldWhatOneFileHolds) {
  set_up(testing::tiny_mixtral_model({.llama = {.blocks = 2}}));
  expect_that_parts_hold_what_one_file_holds();
}

// With biases, which the first part has, in the type that the format gives them.
TEST_F(BlockParts, AStackThatIsTakenApartIsWrittenTheSame) {
  set_up(testing::model_from(testing::stacked_files({.by_turns = true})));
  ASSERT_TRUE(plan_.stacks_apart);
  const std::string experts = "model.layers.1.mlp.experts.";
  types_ = {{experts + "0.gate_proj.bias", "F16"},
            {experts + "3.up_proj.bias", "F16"},
            {experts + "3.up_proj.qweight", "I32"},
            {experts + "2.down_proj.bias", "F16"},
            {experts + "3.down_proj.bias", "F32"},  // of the layer in 16 bits
            {experts + "3.down_proj.weight", "F32"}};
  expect_that_parts_hold_what_one_file_holds();
}

TEST_F(BlockParts, AReplayGivesEachRankItsOwn) {
  set_up(testing::tiny_mixtral_model({.llama = {.blocks = 2}}));
  write();
  const auto read = read_block_file(folder_, plan_, kBlock, world());
  ASSERT_EQ(read.size(), tuned_.weights.size());
  for (std::size_t i = 0; i < read.size(); ++i) {
    ASSERT_EQ(read[i].has_value(), own_tuned_.weights[i].has_value()) << i;
    if (!read[i]) continue;
    EXPECT_TRUE(torch::equal(read[i]->q, tuned_.weights[i]->q)) << i;
    EXPECT_TRUE(torch::equal(read[i]->scale, tuned_.weights[i]->scale)) << i;
  }
}

TEST_F(BlockParts, APartThatIsMissingIsNamedOnAllRanks) {
  set_up(testing::tiny_mixtral_model({.llama = {.blocks = 2}}));
  write();
  const std::string last = plan_.block_file(kBlock, world().size() - 1);
  if (world().rank() == 0) std::filesystem::remove(folder_ + "/" + last);
  world().barrier();
  try {
    read_block_file(folder_, plan_, kBlock, world());
    FAIL() << "an error was to be thrown";
  } catch (const AgreedError& error) {
    EXPECT_THAT(error.what(), HasSubstr(last));
  }
}

TEST_F(BlockParts, EachRankProvesItsOwn) {
  set_up(testing::tiny_mixtral_model({.llama = {.blocks = 2}}));
  own_.block = kBlock;
  write();
  Block block = BlockMaker(plan_.model, torch::kCPU).make(own_);
  std::size_t expert = 0;  // the first layer of an own one
  for (std::size_t i = 0; i < own_tuned_.weights.size(); ++i) {
    if (!own_tuned_.weights[i]) continue;
    block.linears()[i].weight = dequantize(*own_tuned_.weights[i], torch::kFloat32);
    if (expert == 0 && plan_.model.linears(kBlock)[i].expert >= 0) expert = i;
  }
  const auto prove = [&] { prove_block_file(folder_, plan_, kBlock, part_, own_tuned_, block); };
  EXPECT_NO_THROW(prove());
  torch::Tensor& q = own_tuned_.weights[expert]->q;
  q = q.clone();
  q[0][0] = q[0][0].item<int>() ^ 1;
  try {
    prove();
    FAIL() << "an error was to be thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(plan_.model.linears(kBlock)[expert].name));
  }
}

TEST_F(BlockParts, ABlockWithoutExpertsIsTheFirstRanks) {
  plan_.model = testing::tiny_llama_model({.blocks = 2});
  plan_.expert_parts = world().size();
  plan_.outside_files.resize(1);
  EXPECT_EQ(plan_.files(), 3);
  std::optional<BlockFile> mine;
  if (world().rank() == 0) mine = BlockFile{plan_.block_file(1, 0), "digest", 7};
  const std::vector<BlockFile> files = gather_block_files(mine, world());
  ASSERT_EQ(files.size(), 1u);
  EXPECT_EQ(files[0].name, "model-00002-of-00003.safetensors");
  EXPECT_EQ(files[0].bytes, 7u);
}

}  // namespace
}  // namespace roundtable
