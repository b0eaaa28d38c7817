// A block's file: what is written is proven, what was damaged is not, and a replay reads the same integers.
#include "phases/tune/block_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "base/hash.h"
#include "data/sampler.h"
#include "export/registry.h"
#include "io/safetensors.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"
#include "tests/tune/tuner_fixture.h"

namespace roundtable {
namespace {

using ::testing::HasSubstr;

class BlockFileTest : public ::testing::Test {
 protected:
  BlockFileTest() {
    problem_.schemes[3].reset();  // one layer stays in 16 bits
    plan_.model = problem_.model;
    plan_.tuned = as_packed(format_named("auto_round:auto_gptq", "test"));
    plan_.schemes = {problem_.schemes};
    plan_.outside_files.resize(1);
    const Sampler sampler(SamplerKind::kStrata, 8, 4, 42, 0);
    tuned_ =
        BlockTuner(problem_.unit(block_), problem_.samples({0, 8}), sampler, {.iters = 2}, alone_)
            .tune();
    file_ = write_block_file(folder_.path(), plan_, 0, {}, problem_.weights, tuned_);
  }
  void prove() { prove_block_file(folder_.path(), plan_, 0, {}, tuned_, block_); }

  testing::TinyProblem problem_{QuantScheme{4, 32, true, true, true, 1}};
  Block block_ = problem_.block();
  SelfCommunicator alone_;
  Plan plan_;
  TunedBlock tuned_;
  TemporaryFolder folder_;
  BlockFile file_;
};

TEST_F(BlockFileTest, IsNamedMeasuredAndProven) {
  EXPECT_EQ(file_.name, "model-00001-of-00002.safetensors");
  EXPECT_EQ(file_.digest, hash_file(folder_.path() + "/" + file_.name));
  EXPECT_EQ(file_.bytes, content_of(folder_.path() + "/" + file_.name).size());
  EXPECT_NO_THROW(prove());
  const SafetensorsFile file(folder_.path() + "/" + file_.name);
  EXPECT_TRUE(file.tensors().contains("model.layers.0.self_attn.o_proj.weight")) << "the layer without a scheme";
  EXPECT_TRUE(file.tensors().contains("model.layers.0.self_attn.q_proj.qweight"));
  EXPECT_TRUE(file.tensors().contains("model.layers.0.input_layernorm.weight"));
}

TEST_F(BlockFileTest, OneIntegerThatDiffersIsFound) {
  torch::Tensor& q = tuned_.weights[5]->q;
  q[3][4] = q[3][4].item<int>() ^ 1;
  EXPECT_ERROR(prove(), ExitCode::kMachine, HasSubstr(block_.linears()[5].name));
}

TEST_F(BlockFileTest, AByteThatTheDiskChangedIsFound) {
  std::string bytes = content_of(folder_.path() + "/" + file_.name);
  const SafetensorsFile file(folder_.path() + "/" + file_.name);
  const TensorInfo& info = file.tensors().at("model.layers.0.mlp.up_proj.qweight");
  bytes[info.offset + 7] ^= 0x10;
  folder_.put(file_.name, bytes);
  EXPECT_ERROR(prove(), ExitCode::kMachine, HasSubstr("what was read back of"));
}

TEST_F(BlockFileTest, WeightsThatAreNotTheDequantizedIntegersAreFound) {
  block_.linears()[0].weight = block_.linears()[0].weight + 1e-3;
  EXPECT_ERROR(prove(), ExitCode::kMachine, HasSubstr(block_.linears()[0].name));
}

TEST_F(BlockFileTest, AReplayReadsTheIntegers) {
  const auto read = read_block_file(folder_.path(), plan_, 0, alone_);
  ASSERT_EQ(read.size(), tuned_.weights.size());
  for (std::size_t i = 0; i < read.size(); ++i) {
    ASSERT_EQ(read[i].has_value(), tuned_.weights[i].has_value()) << i;
    if (!read[i]) continue;
    EXPECT_TRUE(torch::equal(read[i]->q, tuned_.weights[i]->q)) << i;
    EXPECT_TRUE(torch::equal(read[i]->scale, tuned_.weights[i]->scale)) << i;
  }
}

}  // namespace
}  // namespace roundtable
