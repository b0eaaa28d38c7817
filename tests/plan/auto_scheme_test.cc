// auto_scheme before scores are known: the exact choice, ties, layers that rules fix, bits as auto-round counts them, and
// budgets that cannot be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <set>

#include "base/error.h"
#include "plan/auto_scheme/choose.h"
#include "plan/auto_scheme/mixed_bits.h"
#include "plan/plan.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

using Items = std::vector<std::vector<SchemeCost>>;

SchemeCost sum_of(const Items& items, const std::vector<std::size_t>& choice) {
  SchemeCost sum;
  for (std::size_t i = 0; i < items.size(); ++i) {
    sum.bits += items[i][choice[i]].bits;
    sum.loss += items[i][choice[i]].loss;
  }
  return sum;
}

// The best of all choices: the least loss, then the fewest bits.
SchemeCost best_of_all(const Items& items, std::int64_t budget) {
  SchemeCost best{0, std::numeric_limits<double>::infinity()};
  std::vector<std::size_t> choice(items.size());
  while (true) {
    const SchemeCost sum = sum_of(items, choice);
    if (sum.bits <= budget && (sum.loss < best.loss || (sum.loss == best.loss && sum.bits < best.bits))) best = sum;
    std::size_t i = 0;
    while (i < items.size() && ++choice[i] == items[i].size()) choice[i++] = 0;
    if (i == items.size()) return best;
  }
}

TEST(ChooseWithin, IsTheBestOfAllChoices) {
  std::mt19937 random(7);
  const auto number = [&](int low, int high) { return std::uniform_int_distribution(low, high)(random); };
  for (int round = 0; round < 600; ++round) {
    Items items(static_cast<std::size_t>(number(1, 7)));
    std::int64_t least = 0, most = 0;
    for (std::vector<SchemeCost>& costs : items) {
      const int size = number(1, 50);
      // Whole numbers, so that sums are exact and equal ones occur; some losses rise with the bits, and some are 0.
      for (int k = number(1, 4); k > 0; --k) {
        costs.push_back({size * number(2, 8), round % 3 == 0 ? number(0, 3) : std::ldexp(number(0, 1000), number(-40, 40))});
      }
      least += std::ranges::min(costs, {}, &SchemeCost::bits).bits;
      most += std::ranges::max(costs, {}, &SchemeCost::bits).bits;
    }
    const std::int64_t budget = std::uniform_int_distribution(least, most)(random);
    const SchemeCost found = sum_of(items, choose_within(items, budget)), best = best_of_all(items, budget);
    EXPECT_LE(found.bits, budget);
    EXPECT_LE(found.loss, best.loss * (1 + 1e-12)) << "round " << round;
    if (round % 3 == 0) {
      EXPECT_EQ(found.bits, best.bits) << "round " << round;
    }
  }
}

// A large model: 126 blocks of four ties, whose sizes have no common factor.
TEST(ChooseWithin, IsQuickForManyLayers) {
  std::mt19937 random(11);
  std::uniform_real_distribution<double> loss(0.5, 2);
  Items items;
  std::int64_t least = 0, most = 0;
  for (int block = 0; block < 126; ++block) {
    for (const std::int64_t size : {335544321, 268435459, 1744830467, 872415233}) {
      std::vector<SchemeCost>& costs = items.emplace_back();
      for (const int bits : {2, 3, 4, 8}) costs.push_back({size * bits, loss(random) * std::exp2(-bits)});
      least += 2 * size;
      most += 8 * size;
    }
  }
  for (const double share : {0.1, 0.3, 0.7}) {
    const auto budget = least + static_cast<std::int64_t>(share * static_cast<double>(most - least));
    const SchemeCost sum = sum_of(items, choose_within(items, budget));
    EXPECT_LE(sum.bits, budget);
    EXPECT_GT(static_cast<double>(sum.bits), 0.999 * static_cast<double>(budget));
  }
}

class AutoSchemePlan : public ::testing::Test {
 protected:
  // A Llama of four blocks, or a Mixtral of as many with four experts.
  Plan plan(const AutoScheme& wanted, const SchemeChoice& choice = {}, bool mixtral = false) const {
    static constexpr testing::TinyLlama kLlama{
        .hidden = 256, .intermediate = 512, .head_dim = 64, .vocab = 512, .blocks = 4};
    static const Model llama_model = testing::tiny_llama_model(kLlama, 64);
    static const Model mixtral_model = testing::tiny_mixtral_model({.llama = kLlama}, 64);
    const Model& model = mixtral ? mixtral_model : llama_model;
    Config changed = config_;
    changed.model.path = folder_.path();
    changed.output.path = folder_.path() + "/out";
    changed.quantization.auto_scheme = wanted;
    changed.calibration.n_samples = 16;
    changed.calibration.seqlen = 64;
    return lay_out(changed, {model, model}, {1, 1}, choice);
  }

  std::string refusal(const AutoScheme& wanted) const {
    try {
      plan(wanted);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadInput);
      return error.what();
    }
    return "";
  }

  // The scheme that a layer has in a plan: "w2g64", "bf16".
  static std::string scheme_at(const Plan& plan, std::size_t block, const std::string& layer) {
    const auto& linears = plan.model.linears(static_cast<std::int64_t>(block));
    const auto found = std::ranges::find(linears, layer, &LinearSpec::name);
    const auto& scheme = plan.schemes[block][static_cast<std::size_t>(found - linears.begin())];
    if (!scheme) return "bf16";
    return SchemeOption{scheme->bits, scheme->group_size, scheme->symmetric ? Symmetry::kSym : Symmetry::kAsym}.word();
  }

  Config config_;
  TemporaryFolder folder_;
};

const SchemeOption kW2{2, 64}, kW4{4, 64}, kW8{8, 128}, kFloat{};

TEST_F(AutoSchemePlan, QkvGateUpAndAllExpertsShareAChoice) {
  const Plan llama = plan({3.5, {kW2, kW4, kW8}});
  ASSERT_EQ(llama.mixed->ties.size(), 16u);  // q k v, o, gate up, down of four blocks
  EXPECT_EQ(llama.mixed->ties.front().layers.size(), 3u);
  EXPECT_TRUE(llama.is_guess);
  EXPECT_THAT(llama.warnings, Not(Contains(HasSubstr("are one layer in vLLM"))));
  const Plan mixtral = plan({3.5, {kW2, kW4, kW8}}, {}, /*mixtral=*/true);
  std::set<std::size_t> sizes;
  for (const TiedLayers& tie : mixtral.mixed->ties) sizes.insert(tie.layers.size());
  EXPECT_EQ(sizes, (std::set<std::size_t>{1, 3, 12}));  // o; q k v; three layers of four experts
}

TEST_F(AutoSchemePlan, ThePeersCountOfBits) {
  const LinearSpec layer{"layer", 6, 100};
  QuantScheme scheme;
  scheme.bits = 4;
  scheme.group_size = 32;
  EXPECT_EQ(storage_bits(layer, scheme, false), 4 * 600 + 6 * 4 * (16 + 4));  // symmetric integers too
  EXPECT_EQ(storage_bits(layer, scheme, true), 4 * 600);
  scheme.group_size = -1;
  EXPECT_EQ(storage_bits(layer, scheme, false), 4 * 600 + 6 * 20);
  EXPECT_EQ(storage_bits(layer, std::nullopt, false), 16 * 600);
  scheme.type = WeightType::kMxFp4;
  scheme.group_size = 32;
  EXPECT_EQ(storage_bits(layer, scheme, false), 4 * 600 + 6 * 4 * 8);
}

TEST_F(AutoSchemePlan, RulesWinAndCountInTheMean) {
  config_.quantization.weight_config = {{"layers.1.self_attn.q_proj", 3, 32, {}, {}}};
  config_.quantization.ignore_layers = {"layers.2.mlp.down_proj"};
  const AutoScheme wanted{5, {kW2, kW4, kW8}};
  const Plan made = plan(wanted);
  EXPECT_EQ(scheme_at(made, 1, "self_attn.q_proj"), "w3g32");
  EXPECT_EQ(scheme_at(made, 2, "mlp.down_proj"), "bf16");
  EXPECT_EQ(made.mixed->ties.size(), 15u);
  const std::int64_t q = 256 * 256, down = 256 * 512;
  EXPECT_EQ(made.mixed->fixed_bits, 3 * q + q / 32 * 19 + 16 * down);
  const MixedSchemes figures = figures_of(*made.mixed, config_.quantization = [&] {
    QuantizationSection section = config_.quantization;
    section.auto_scheme = wanted;
    return section;
  }(), made.chosen);
  EXPECT_LE(figures.mean_bits, 5);
  EXPECT_GT(figures.mean_bits, 4.8);
  EXPECT_EQ(figures.layers.at("w2g64") + figures.layers.at("w4g64") + figures.layers.at("w8g128"), 4 * 7 - 2);
}

TEST_F(AutoSchemePlan, AChoiceInWordsIsWhatTheLayersGet) {
  const AutoScheme wanted{5, {kW2, kW4, kFloat}};
  const Plan guess = plan(wanted);
  QuantizationSection section;
  section.auto_scheme = wanted;
  SchemeChoice choice = in_words(*guess.mixed, section, guess.model, guess.chosen);
  choice.at("model.layers.3.self_attn.o_proj") = "bf16";
  choice.at("model.layers.3.mlp.gate_proj") = "w2g64";
  choice.at("model.layers.0.self_attn.q_proj") = "w4g64";
  const Plan made = plan(wanted, choice);
  EXPECT_FALSE(made.is_guess);
  EXPECT_EQ(scheme_at(made, 3, "self_attn.o_proj"), "bf16");
  EXPECT_EQ(scheme_at(made, 3, "mlp.up_proj"), "w2g64");
  EXPECT_EQ(scheme_at(made, 0, "self_attn.v_proj"), "w4g64");
  EXPECT_EQ(in_words(*made.mixed, section, made.model, made.chosen), choice);
  choice.at("model.layers.3.mlp.gate_proj") = "w8g32";
  EXPECT_THROW(plan(wanted, choice), Error);
}

TEST_F(AutoSchemePlan, WhatCannotBeIsRefused) {
  EXPECT_THAT(refusal({2, {kW2, kW4}}),
              AllOf(HasSubstr("quantization.auto_scheme: avg_bits 2 is out of reach: these options give 2.281 to 4.312"),
                    HasSubstr("raise avg_bits, or add an option of fewer bits or larger groups")));
  EXPECT_THAT(refusal({4.5, {kW2, kW4}}), HasSubstr("lower avg_bits, or add an option of more bits"));
  EXPECT_EQ(refusal({4.3125, {kW2, kW4}}), "");
  EXPECT_EQ(refusal({2, {kW2, kW4}, 64, 8, true}), "");
  EXPECT_THAT(refusal({4, {kW2, {4, 32, Symmetry::kSym, WeightType::kMxFp4}}}),
              HasSubstr("option mxfp4 has weights of data_type mx_fp, and quantization.data_type is int"));
  config_.output.formats = {"auto_round:auto_awq"};
  EXPECT_THAT(refusal({4.5, {kW4, kW8}}), HasSubstr("option w8g128: auto_round:auto_awq cannot hold it"));
  config_.output.formats = {"gguf"};
  EXPECT_NE(refusal({3, {kW2, kW4}}), "");
}

// A layer that no option fits stays as it is; one that some fit has these alone.
TEST_F(AutoSchemePlan, OptionsThatDoNotFitALayerAreNotItsCandidates) {
  const Plan made = plan({8, {{4, 512}, {8, 128}}});
  for (const TiedLayers& tie : made.mixed->ties) {
    const LinearSpec& linear = made.model.linears(tie.layers.front().block)[tie.layers.front().place];
    EXPECT_EQ(tie.candidates.size(), linear.in == 512 ? 2u : 1u) << linear.name;
  }
  EXPECT_THAT(refusal({8, {{4, 1024}, {8, 768}}}), HasSubstr("no layer can be quantized"));
}

}  // namespace
}  // namespace roundtable
