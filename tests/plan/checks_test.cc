// What plan refuses and what it only warns of, from a config and a config.json.
#include "plan/checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "data/sha256.h"
#include "io/safetensors.h"
#include "plan/layout.h"
#include "plan/plan.h"
#include "plan/warnings.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// Four blocks whose dimensions every format can hold.
class PlanChecks : public ::testing::Test {
 protected:
  PlanChecks() {
    config_.model.path = folder_.path();
    config_.output.path = folder_.path() + "/out";
    config_.quantization.group_size = 32;
    config_.calibration.n_samples = 16;
    config_.calibration.seqlen = 64;
    config_.tuning.batch_size = 8;
  }

  using Change = std::function<void(Config&)>;
  Plan plan(
      const Change& change = [](Config&) {}, const World& world = {1, 1}) const {
    Config changed = config_;
    change(changed);
    static const Model usual = testing::tiny_llama_model(kLlama, 64);
    const std::int64_t seqlen = changed.calibration.seqlen;
    const Model model = seqlen == usual.seqlen() ? usual : testing::tiny_llama_model(kLlama, seqlen);
    return lay_out(changed, {model, model}, world);
  }

  static constexpr testing::TinyLlama kLlama{
      .hidden = 256, .intermediate = 512, .head_dim = 64, .vocab = 512, .blocks = 4, .max_positions = 128};
  TemporaryFolder folder_;
  Config config_;
};

TEST_F(PlanChecks, AGoodConfigPassesWithoutAWarning) {
  const Plan plan = this->plan();
  EXPECT_THAT(plan.warnings, IsEmpty());
  EXPECT_EQ(plan.stages.size(), 1u);
  EXPECT_TRUE(plan.tuned_in_place);
  EXPECT_GT(plan.forecast.memory_bytes(), 0);
}

TEST_F(PlanChecks, EachRefusalNamesItsKey) {
  struct Case {
    const char* key;
    const char* problem;
    Change change;
    World world = {1, 1};
  };
  const std::vector<Case> cases = {
      {"parallel.shards", "does not divide the 4 ranks", [](Config& c) { c.parallel.shards = 3; }, {4, 4}},
      {"parallel.shards", "does not divide the 1 ranks", [](Config& c) { c.parallel.shards = 2; }},
      {"parallel.shards",
       "does not divide the 6 strata",
       [](Config& c) { c.parallel.shards = 4, c.tuning.batch_size = 6; },
       {8, 8}},
      {"parallel.shards",
       "no power of two",
       [](Config& c) { c.parallel.shards = 3, c.run.reproducible = true; },
       {3, 3}},
      {"parallel.stages", "more than the model's 4 blocks", [](Config& c) { c.parallel.stages = 5; }},
      {"parallel.gradient_dtype",
       "votes of 127 ranks",
       [](Config& c) {
         c.parallel.gradient_dtype = GradientDtype::kSign;
         c.parallel.shards = c.tuning.batch_size = c.calibration.n_samples = 128;
       },
       {128, 128}},
      {"parallel.gradient_dtype", "fp32",
       [](Config& c) { c.parallel.gradient_dtype = GradientDtype::kBf16, c.run.reproducible = true; }},
      {"tuning.sampler", "strata", [](Config& c) { c.tuning.sampler = SamplerKind::kRand, c.run.reproducible = true; }},
      {"tuning.momentum", "signround",
       [](Config& c) { c.tuning.momentum = 0.5, c.tuning.optimizer = OptimizerKind::kAdamW; }},
      {"tuning.min_expert_tokens", "calibration.n_samples * calibration.seqlen",
       [](Config& c) { c.tuning.min_expert_tokens = c.calibration.n_samples * c.calibration.seqlen + 1; }},
      {"calibration.n_samples", "cannot fill a batch of 32", [](Config& c) { c.tuning.gradient_accumulate_steps = 4; }},
      {"output.formats", "cannot hold this",
       [](Config& c) { c.output.formats = {"auto_awq"}, c.quantization.bits = 3; }},
      {"output.formats", "is not a format", [](Config& c) { c.output.formats = {"no such"}; }},
      {"cluster.device_memory",
       "the smallest layout needs",
       [](Config& c) { c.cluster.nodes = 1, c.cluster.devices_a_node = 4, c.cluster.device_memory = 1e-3; },
       {4, 4}},
      // A setting that divides nothing is named before the memory that no layout with it could have.
      {"parallel.shards",
       "does not divide the 4 ranks",
       [](Config& c) { c.cluster.nodes = 1, c.cluster.devices_a_node = 4, c.parallel.shards = 3; },
       {4, 4}},
  };
  for (const Case& one : cases) {
    EXPECT_BAD_INPUT(plan(one.change, one.world), AllOf(HasSubstr(one.key), HasSubstr(one.problem)));
  }
}

TEST_F(PlanChecks, TooLittleMemoryForOneBlockIsNoMatterOfSamples) {
  const auto with_memory = [&](double bytes) {
    return plan([&](Config& c) {
      c.cluster.nodes = 1, c.cluster.devices_a_node = 1;
      c.cluster.device_memory = bytes / 1e9;
    });
  };
  const Forecast forecast = with_memory(1e12).forecast;
  ASSERT_LT(forecast.block_bytes(), forecast.memory_bytes());
  const auto block = static_cast<double>(forecast.block_bytes()), all = static_cast<double>(forecast.memory_bytes());
  EXPECT_BAD_INPUT(with_memory(0.9 * block),
                   AllOf(HasSubstr("of it for one block and its tuning"), HasSubstr("more memory")));
  EXPECT_BAD_INPUT(with_memory((block + all) / 2), HasSubstr("lower tuning.micro_batch"));
  EXPECT_NO_THROW(with_memory(1.01 * all));
}

std::int64_t disk_item(const Plan& plan, const std::string& name) {
  for (const auto& item : plan.forecast.disk) {
    if (item.name == name) return item.bytes;
  }
  return -1;
}

TEST_F(PlanChecks, TheDiskForecastCountsEveryFormat) {
  // Weights of a block, the two tables and the norms.
  constexpr std::int64_t kWeights = 2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256;
  constexpr std::int64_t kTables = 2 * 512 * 256 * 2, kNorms = (4 * 2 + 1) * 256 * 2;
  // Half a byte a weight, and per group an fp16 scale and half a byte of zero point.
  constexpr std::int64_t kPacked = 4 * (kWeights / 2 + kWeights / 32 * 5 / 2) + kTables + kNorms;
  constexpr std::int64_t kInputs = 4 * (6 * 256 + 512) * 4;  // g_idx of auto_gptq: an int32 per input
  constexpr std::int64_t kFloats = 4 * kWeights * 2 + kTables + kNorms;
  EXPECT_EQ(disk_item(plan(), "checkpoint"), kPacked);
  EXPECT_EQ(plan().forecast.disk.size(), 2u);
  const Plan three = plan([](Config& c) { c.output.formats = {"auto_round", "auto_gptq", "qdq"}; });
  EXPECT_EQ(disk_item(three, "checkpoint"), kPacked);
  EXPECT_EQ(disk_item(three, "auto_gptq"), kPacked + kInputs);
  EXPECT_EQ(disk_item(three, "qdq"), kFloats);
  const Plan twice = plan([](Config& c) { c.output.formats = {"qdq"}; });
  EXPECT_EQ(disk_item(twice, "checkpoint"), kFloats);
  // As llm_compressor: no zero points, and the shape of each of the 28 layers.
  EXPECT_EQ(disk_item(twice, "tuned blocks"), kPacked - 4 * kWeights / 32 / 2 + 28 * 16);
  // Q4_0: 18 bytes for 32 weights.
  EXPECT_EQ(disk_item(plan([](Config& c) {
                        c.output.formats = {"auto_round", "gguf"};
                      }),
                      "gguf"),
            4 * kWeights / 32 * 18 + kTables + kNorms);
  const Plan head = plan([](Config& c) { c.quantization.quant_lm_head = true; });
  EXPECT_EQ(disk_item(head, "checkpoint"), kPacked - 512 * 256 * 2 + 512 * 256 / 2 + 512 * 256 / 32 * 5 / 2);
}

TEST_F(PlanChecks, WhatIsRefusedAtItsLimitIsTakenBelowIt) {
  EXPECT_NO_THROW(plan([](Config& c) { c.parallel.stages = 4; }));
  EXPECT_NO_THROW(
      plan([](Config& c) { c.tuning.min_expert_tokens = c.calibration.n_samples * c.calibration.seqlen; }));
  EXPECT_NO_THROW(plan([](Config& c) { c.parallel.shards = 4; }, {8, 8}));
  EXPECT_NO_THROW(plan([](Config& c) { c.tuning.gradient_accumulate_steps = 2; }));
  EXPECT_NO_THROW(plan([](Config& c) { c.tuning.iters = 0, c.tuning.gradient_accumulate_steps = 4; }));
  EXPECT_NO_THROW(plan([](Config& c) { c.parallel.stages = 9, c.tuning.use_quant_input = false; }));
}

TEST_F(PlanChecks, Warnings) {
  const auto warnings = [&](const Change& change, const World& world = {1, 1}) { return plan(change, world).warnings; };
  EXPECT_THAT(warnings([](Config& c) { c.calibration.seqlen = 129; }),
              Contains(HasSubstr("larger than the model's max_position_embeddings 128")));
  EXPECT_THAT(warnings([](Config& c) { c.parallel.shards = 1, c.parallel.stages = 2; }, {4, 4}),
              Contains(HasSubstr("4 groups for 2 stages")));
  EXPECT_THAT(warnings([](Config& c) { c.quantization.scheme = Symmetry::kAsym; }),
              Contains(HasSubstr("no CPU backend")));
  EXPECT_THAT(warnings([](Config& c) {
                c.quantization.scheme = Symmetry::kAsym;
                c.output.formats = {"auto_round", "auto_gptq"};
              }),
              AllOf(Contains(HasSubstr("GPTQModel")), Not(Contains(HasSubstr("no CPU backend")))));
  EXPECT_THAT(warnings([](Config& c) { c.run.reproducible = true; }), Contains(HasSubstr("set parallel.stages")));
  EXPECT_THAT(warnings([](Config& c) { c.quantization.group_size = 256; }),
              Contains(HasSubstr("over 2 or 4 or 8 devices would cut a group of self_attn.o_proj")));
  EXPECT_THAT(warnings([](Config& c) { c.calibration.estimate = "other"; }), Contains(HasSubstr("changes nothing")));
  EXPECT_THAT(warnings([](Config& c) { c.output.formats = {"qdq"}; }), Contains(HasSubstr("holds no integers")));
  EXPECT_THAT(warnings([](Config& c) { c.output.max_shard_size = *ByteSize::parse("20KB"); }),
              Contains(HasSubstr("larger than output.max_shard_size")));
}

TEST_F(PlanChecks, StagesThatFollowTheRanksAreSaidToDoSo) {
  const auto two_groups = [](Config& c) { c.parallel.shards = 1; };
  EXPECT_THAT(plan(two_groups, {2, 2}).warnings,
              Contains(AllOf(HasSubstr("number of stages (2) follows"), HasSubstr("set parallel.stages=1"))));
  // Three ranks cannot share the eight samples of a step.
  EXPECT_THAT(plan([](Config&) {}, {3, 3}).warnings,
              Contains(HasSubstr("divides the 8 samples of a step, which 3 does")));
  const auto set = [](Config& c) { c.parallel.shards = 1, c.parallel.stages = 2; };
  EXPECT_THAT(plan(set, {2, 2}).warnings, IsEmpty());
  EXPECT_THAT(describe(plan(two_groups, {2, 2}), config_),
              HasSubstr("2 of up to 2 blocks, which follows the number of groups; parallel.stages=2 keeps it"));
}

TEST_F(PlanChecks, ATokenSetOfAnotherTokenizerIsRefused) {
  const auto tokens_of = [&](const std::string& text) {
    const std::vector<std::int32_t> ids = {1, 2};
    const std::string path = folder_.path() + "/tokens.safetensors";
    write_safetensors(path, {{"input_ids", ElementType::kI32, {1, 2}, ids.data()}},
                      text.empty() ? std::map<std::string, std::string>{}
                                   : std::map<std::string, std::string>{{"tokenizer_sha256", sha256(text)}});
    return path;
  };
  EXPECT_THAT(check_tokenizer(config_, tokens_of("the model's")), HasSubstr("there is no "));
  folder_.put("tokenizer.json", "the model's");
  EXPECT_EQ(check_tokenizer(config_, tokens_of("the model's")), "");
  EXPECT_EQ(check_tokenizer(config_, tokens_of("")), "") << "it does not say which";
  EXPECT_BAD_INPUT(check_tokenizer(config_, tokens_of("another")),
                   AllOf(HasSubstr("tokens.safetensors: was made with another tokenizer"),
                         HasSubstr("calibration.check_tokenizer=false")));
  config_.calibration.check_tokenizer = false;
  EXPECT_THAT(check_tokenizer(config_, tokens_of("another")), HasSubstr("another tokenizer"));
}

TEST(ChooseShards, TakesTheLargestThatDivides) {
  EXPECT_EQ(choose_shards(0, {8, 8}, 8), 8);
  EXPECT_EQ(choose_shards(0, {16, 8}, 8), 8);  // a group stays inside a node
  EXPECT_EQ(choose_shards(0, {8, 8}, 4), 4);   // the strata
  EXPECT_EQ(choose_shards(0, {6, 6}, 8), 2);
  EXPECT_EQ(choose_shards(2, {8, 8}, 8), 2);
}

}  // namespace
}  // namespace roundtable
