// `roundtable eval` on 1, 2 and 4 ranks: into how many parts it divides experts, that each rank reads its own alone, and
// that the measures are those of one rank.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "comm/agree.h"
#include "commands/checks/eval_checks.h"
#include "commands/start.h"
#include "io/safetensors.h"
#include "phases/measure.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

using ::testing::HasSubstr;
using testing::world;

constexpr std::int64_t kRows = 5, kSeqlen = 16;  // 4 ranks have 1 or 2 rows
constexpr std::int64_t kExperts = 4;

// Random weights that follow from their names; coarser where `quantized`. Counts reads.
class RandomSource final : public TensorSource {
 public:
  explicit RandomSource(bool quantized) : quantized_(quantized) {}

  torch::Tensor read(const ParameterSpec& spec) const override {
    ++reads[spec.name];
    auto generator = at::detail::createCPUGenerator(std::hash<std::string>()(spec.name));
    const torch::Tensor weight = torch::randn(spec.shape, generator);
    return quantized_ ? (weight * 4).round() / 4 : weight;
  }
  bool contains(const std::string&) const override { return true; }

  mutable std::map<std::string, int> reads;

 private:
  bool quantized_;
};

Config config_of_test() {
  Config config;
  config.tuning.amp = false;
  config.parallel.threads = 1;
  config.parallel.backend = Backend::kMpi;
  return config;
}

class EvalRanks : public ::testing::Test {
 protected:
  EvalRanks() {
    std::vector<std::int32_t> ids;
    for (std::int64_t i = 0; i < kRows * kSeqlen; ++i) {
      ids.push_back(static_cast<std::int32_t>((i * 7 + i / 3) % model_.vocab_size()));
    }
    write_safetensors(tokens_, {{"input_ids", ElementType::kI32, {kRows, kSeqlen}, ids.data()}});
  }
  Measures measure_on(const RankContext& ranks) {
    return measure(ranks, {model_, quantized_, "quantized"}, MeasuredModel{model_, floats_, "float"},
                   {.tokens = tokens_});
  }

  Model model_ = testing::tiny_mixtral_model({.llama = {.blocks = 3}, .experts = kExperts}, kSeqlen);
  TemporaryFolder folder_;
  std::string tokens_ = folder_.path() + "/tokens.safetensors";
  RandomSource floats_{false}, quantized_{true};
};

TEST_F(EvalRanks, OwnersReadTheirExpertsAndTheMeasuresAreThoseOfOneRank) {
  const Config config = config_of_test();
  const std::unique_ptr<MpiCommunicator> alone = world().split(world().rank(), 0);
  const Measures wanted = measure_on(make_rank_context(config, 1, 1, *alone));
  EXPECT_EQ(wanted.tokens, kRows * (kSeqlen - 1));
  EXPECT_GT(wanted.divergence->mean, 1e-3);
  EXPECT_GT(wanted.divergence->p99, wanted.divergence->mean);
  EXPECT_LT(wanted.divergence->same_top, 1);
  const std::map<std::string, int> of_one = floats_.reads;
  floats_.reads.clear();
  quantized_.reads.clear();

  const int parts = choose_eval_parts(config, {&model_}, world_of(world()));
  EXPECT_EQ(parts, world().size());
  const RankContext ranks = make_rank_context(config, parts, parts, world());
  const Measures found = measure_on(ranks);
  EXPECT_EQ(found.tokens, wanted.tokens);
  EXPECT_NEAR(found.perplexity / wanted.perplexity, 1, 1e-6);
  EXPECT_NEAR(*found.float_perplexity / *wanted.float_perplexity, 1, 1e-6);
  EXPECT_NEAR(found.divergence->mean / wanted.divergence->mean, 1, 1e-5);
  EXPECT_NEAR(found.divergence->p99 / wanted.divergence->p99, 1, 1e-5);
  EXPECT_EQ(found.divergence->same_top, wanted.divergence->same_top);

  for (const RandomSource* source : {&floats_, &quantized_}) {
    std::map<std::string, int> reads;
    for (const std::string& text : all_gather_text(world(), nlohmann::json(source->reads).dump())) {
      for (const auto& [name, count] : nlohmann::json::parse(text).get<std::map<std::string, int>>()) {
        reads[name] += count;
      }
    }
    EXPECT_EQ(reads, of_one);
    for (const auto& [name, count] : source->reads) {
      const std::size_t at = name.find("experts.");
      if (at == std::string::npos) continue;
      EXPECT_TRUE(ranks.expert_part.holds(std::stoi(name.substr(at + 8)), kExperts)) << name;
    }
  }
}

TEST_F(EvalRanks, PartsAreWhatRanksAndExpertsHaveInCommon) {
  Config config = config_of_test();
  const Model dense = testing::tiny_llama_model();
  const auto parts = [&](int ranks) { return choose_eval_parts(config, {&model_}, {.ranks = ranks}); };
  for (const auto& [ranks, wanted] : std::map<int, int>{{1, 1}, {2, 2}, {3, 1}, {4, 4}, {6, 2}, {8, 4}, {12, 4}}) {
    EXPECT_EQ(parts(ranks), wanted) << ranks;
  }
  EXPECT_EQ(choose_eval_parts(config, {&dense}, {.ranks = 4}), 1);
  EXPECT_EQ(choose_eval_parts(config, {&dense, &model_}, {.ranks = 4}), 4);
  config.parallel.shards = 2;
  EXPECT_EQ(parts(4), 2);
  EXPECT_EQ(parts(1), 1);  // the config of a run on more ranks
  config.parallel.shards = 8;
  EXPECT_EQ(parts(8), 4);
  config.parallel.experts = Experts::kReplicated;
  EXPECT_EQ(parts(8), 1);
  config.parallel.experts = Experts::kDivided;
  EXPECT_BAD_INPUT(parts(8), HasSubstr("parallel.shards: 8 does not divide both the 8 ranks and the 4 experts"));
  config.parallel.shards = 0;
  EXPECT_EQ(parts(8), 4);
  EXPECT_BAD_INPUT(parts(3), HasSubstr("the 3 ranks and the 4 experts of a block have no divisor in common"));
}

TEST_F(EvalRanks, WhatCannotBeComparedIsRefused) {
  Config config = config_of_test();
  config.model.path = folder_.path() + "/quantized";
  const std::string floats = folder_.path() + "/float";
  for (const char* name : {"quantized", "float"}) {
    std::filesystem::create_directories(folder_.path() + "/" + name);
    folder_.put(std::string(name) + "/tokenizer.json", "{}");
  }
  const Model model = testing::tiny_llama_model({.vocab = 48}), other = testing::tiny_llama_model({.vocab = 50});
  EXPECT_BAD_INPUT(check_is_float(floats), HasSubstr(floats + "/config.json"));
  folder_.put("float/config.json", "{}");
  check_is_float(floats);
  EXPECT_EQ(check_same_tokens(config, model, floats, model), "");
  EXPECT_BAD_INPUT(check_same_tokens(config, model, floats, other),
                   HasSubstr("--against: " + floats + " has a vocabulary of 50 tokens, and " + config.model.path +
                             " has one of 48"));
  folder_.put("float/tokenizer.json", "{ }");
  const auto differ = HasSubstr("--against: " + floats + "/tokenizer.json is another tokenizer than");
  EXPECT_BAD_INPUT(check_same_tokens(config, model, floats, model), differ);
  config.calibration.check_tokenizer = false;
  EXPECT_THAT(check_same_tokens(config, model, floats, model), differ);
  std::filesystem::remove(floats + "/tokenizer.json");
  EXPECT_EQ(check_same_tokens(config, model, floats, model), "");
}

TEST(Percentile, LiesBetweenTwoNeighbours) {
  std::vector<float> values;
  for (int i = 0; i <= 200; ++i) values.push_back(static_cast<float>((i * 37) % 201));
  EXPECT_DOUBLE_EQ(percentile(values, 0.99), 198);
  values.resize(1);
  EXPECT_DOUBLE_EQ(percentile(values, 0.99), values.front());
  EXPECT_DOUBLE_EQ(percentile({5, 1, 3}, 0.75), 4);
}

}  // namespace
}  // namespace roundtable
