// Layout: how blocks are cut into stages, and experts into parts, with the files that follow.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "plan/layout.h"
#include "plan/plan.h"
#include "tests/graph/stacked_graph.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(CutStages, CoversAllBlocksLongerOnesFirst) {
  for (const std::int64_t blocks : {1, 7, 30, 80}) {
    for (std::int64_t stages = 1; stages <= blocks; ++stages) {
      const auto cut = cut_stages(blocks, stages);
      ASSERT_EQ(static_cast<std::int64_t>(cut.size()), stages);
      std::int64_t next = 0;
      for (const Stage& stage : cut) {
        EXPECT_EQ(stage.first, next);
        EXPECT_GE(stage.size(), blocks / stages);
        EXPECT_LE(stage.size(), cut.front().size());
        next = stage.last;
      }
      EXPECT_EQ(next, blocks);
    }
  }
}

// The plan of a model with experts.
class DividedExperts : public ::testing::Test {
 protected:
  using Change = std::function<void(Config&)>;

  DividedExperts() {
    config_.model.path = folder_.path();
    config_.output.path = folder_.path() + "/out";
    config_.quantization.group_size = 32;
    config_.calibration.n_samples = 24;
    config_.calibration.seqlen = 16;
    config_.tuning.batch_size = 24;
    config_.parallel.experts = Experts::kDivided;
  }
  Plan plan(const Model& model, const World& world, const Change& change = [](Config&) {}) const {
    Config changed = config_;
    change(changed);
    return lay_out(changed, {model, model}, world);
  }
  static Model mixtral(std::int64_t experts = 8) {
    return testing::tiny_mixtral_model({.llama = {.blocks = 2}, .experts = experts});
  }
  static Change shards(std::int64_t number) {
    return [number](Config& c) { c.parallel.shards = number; };
  }

  TemporaryFolder folder_;
  Config config_;
};

TEST_F(DividedExperts, EachRankOfAGroupHasAPartAndItsFiles) {
  const Plan four = plan(mixtral(), {4, 4});
  EXPECT_EQ(four.shards, 4);
  EXPECT_EQ(four.expert_parts, 4);
  EXPECT_EQ(four.expert_part(3), (ExpertPart{3, 4}));
  EXPECT_TRUE(four.expert_part(3).holds(7, 8));
  EXPECT_FALSE(four.expert_part(3).holds(5, 8));
  EXPECT_THAT(four.warnings, Each(Not(HasSubstr("parallel.experts"))));
  EXPECT_THAT(describe(four, config_), HasSubstr("experts      divided over the ranks of a group: 2 of 8 per rank"));
  // Two blocks of four files, and one of what no block holds.
  EXPECT_EQ(four.files(), 9);
  EXPECT_EQ(four.block_file(0, 0), "model-00001-of-00009.safetensors");
  EXPECT_EQ(four.block_file(1, 2), "model-00007-of-00009.safetensors");
  EXPECT_EQ(four.outside_file(0), "model-00009-of-00009.safetensors");
  EXPECT_EQ(four.weight_files().size(), 10u);
  // Without division nothing is new.
  const Plan whole = plan(mixtral(), {4, 4}, [](Config& c) { c.parallel.experts = Experts::kReplicated; });
  EXPECT_EQ(whole.expert_parts, 1);
  EXPECT_EQ(whole.expert_part(3), ExpertPart{});
  EXPECT_EQ(whole.block_file(1, 0), "model-00002-of-00003.safetensors");
  EXPECT_EQ(whole.outside_file(0), "model-00003-of-00003.safetensors");
  EXPECT_THAT(describe(whole, config_), Not(HasSubstr("  experts ")));
}

TEST_F(DividedExperts, TheNumberOfRanksPerGroupFollowsTheExpertsToo) {
  EXPECT_EQ(plan(mixtral(), {6, 6}).shards, 2) << "6 divides the 24 samples, and not the 8 experts";
  EXPECT_EQ(plan(mixtral(6), {6, 6}).shards, 6);
  EXPECT_EQ(plan(mixtral(), {6, 6}, [](Config& c) { c.parallel.experts = Experts::kReplicated; }).shards, 6);
}

TEST_F(DividedExperts, ANumberThatDoesNotDivideIsRefusedWithThoseThatDo) {
  EXPECT_BAD_INPUT(plan(mixtral(), {3, 3}, shards(3)),
                   AllOf(HasSubstr("parallel.shards: 3 does not divide the 8 experts of a block"),
                         HasSubstr("numbers that do: 2, 4, 8; or set parallel.experts to replicated")));
  EXPECT_BAD_INPUT(plan(mixtral(5), {3, 3}, shards(3)),
                   AllOf(HasSubstr("the 5 experts"),
                         HasSubstr("numbers that do: 5, each with a tuning.batch_size that it divides; or set")));
  EXPECT_NO_THROW(plan(mixtral(), {8, 8}, shards(8)));
  EXPECT_EQ(plan(mixtral(), {3, 3}, [](Config& c) {
              c.parallel.shards = 3, c.parallel.experts = Experts::kAuto;
            }).expert_parts,
            1);
}

TEST_F(DividedExperts, WhereItMeansNothingAWarningSaysSo) {
  EXPECT_THAT(plan(testing::tiny_llama_model(), {2, 2}).warnings,
              Contains("parallel.experts: 'divided' changes nothing: the model has no experts"));
  const Plan alone = plan(mixtral(), {2, 2}, shards(1));
  EXPECT_EQ(alone.expert_parts, 1);
  EXPECT_THAT(alone.warnings, Contains("parallel.experts: 'divided' changes nothing: a group is one rank"));
}

TEST_F(DividedExperts, TheLeastNumberOfTokensIsInThePlanOrAWarningSaysWhyNot) {
  const Change least = [](Config& c) { c.tuning.min_expert_tokens = 24; };
  const Plan known = plan(mixtral(), {2, 2}, least);
  Config config = config_;
  least(config);
  EXPECT_THAT(describe(known, config), HasSubstr("  experts      at least 24 tokens for the search of scales of each\n"));
  EXPECT_THAT(known.warnings, Each(Not(HasSubstr("min_expert_tokens"))));
  EXPECT_THAT(describe(known, config_), Not(HasSubstr("at least")));
  EXPECT_THAT(plan(testing::tiny_llama_model(), {2, 2}, least).warnings,
              Contains("tuning.min_expert_tokens changes nothing: the model has no experts"));
  EXPECT_THAT(plan(mixtral(), {2, 2}, [&](Config& c) { least(c), c.quantization.ignore_layers = {"experts"}; }).warnings,
              Contains("tuning.min_expert_tokens changes nothing: no expert is quantized"));
  EXPECT_THAT(plan(mixtral(), {2, 2}, [&](Config& c) { least(c), c.tuning.init_scale = InitScale::kOne; }).warnings,
              Contains("tuning.min_expert_tokens changes nothing but the report: tuning.init_scale 'one' does not search "
                       "scales"));
}

TEST_F(DividedExperts, OneTensorOfAllExpertsIsTakenApartOrNotDivided) {
  const Model stacked = testing::model_from(testing::stacked_files({}));
  const auto in_16_bits = [](Config& c) { c.quantization.ignore_layers = {"experts"}; };
  const Plan apart = plan(stacked, {2, 2});
  EXPECT_TRUE(apart.stacks_apart);
  EXPECT_EQ(apart.expert_parts, 2);
  EXPECT_BAD_INPUT(plan(stacked, {2, 2}, in_16_bits),
                   AllOf(HasSubstr("parallel.experts: 'divided' is not possible: the experts of 'llama' are one "),
                         HasSubstr("none of them is quantized"), HasSubstr("leave it at auto")));
  // Experts that are tensors of their own stay so in 16 bits.
  EXPECT_EQ(plan(mixtral(), {2, 2}, in_16_bits).expert_parts, 2);
  EXPECT_EQ(plan(stacked, {2, 2}, [](Config& c) { c.output.formats = {"qdq"}; }).expert_parts, 2)
      << "the groups write another format, from which it is made";
}

TEST_F(DividedExperts, AProductOfAllExpertsCannotBeDivided) {
  testing::PartBuilder kind;
  const testing::json hidden = kind.input("hidden");
  const testing::json weight = kind.parameter("mlp.experts.down_proj", {4, 64, 64}, "linear", true);
  const testing::json x = kind.call("aten::reshape", {hidden, testing::json::array({1, -1, 64})});
  const testing::json all = kind.call("aten::repeat", {x, testing::json::array({4, 1, 1})});
  const testing::json y = kind.call("aten::bmm", {all, weight});
  const testing::json sum = kind.call("aten::sum.dim_IntList", {y, testing::json::array({0})});
  kind.output(kind.call("aten::view_as", {sum, hidden}));
  const Model model = testing::model_from(testing::model_of(kind, {4, 64}, 1));
  ASSERT_EQ(model.kind(0).experts, 4);
  EXPECT_BAD_INPUT(plan(model, {2, 2}), HasSubstr("the experts of 'llama' are multiplied in one product (aten::bmm)"));
  EXPECT_NO_THROW(plan(model, {2, 2}, [](Config& c) { c.parallel.experts = Experts::kAuto; }));
}

TEST_F(DividedExperts, AutoKeepsToThePartsThatARunWasBegunWith) {
  const auto automatic = [](Config& c) { c.parallel.experts = Experts::kAuto; };
  EXPECT_EQ(plan(mixtral(), {4, 4, /*parts_on_record=*/4}, automatic).expert_parts, 4);
  EXPECT_EQ(plan(mixtral(), {4, 4, /*parts_on_record=*/1}, automatic).expert_parts, 1);
  EXPECT_EQ(plan(mixtral(), {4, 4, /*parts_on_record=*/1}).expert_parts, 4) << "the journal refuses it";
}

TEST_F(DividedExperts, ThePartOfABlockIsWhatMustFitAFile) {
  const Model model = mixtral();
  const auto fits = [&](std::uint64_t bytes, Experts experts) {
    const auto change = [&](Config& c) {
      c.parallel.experts = experts;
      c.output.max_shard_size = *ByteSize::parse(std::to_string(bytes) + "B");
    };
    return plan(model, {4, 4}, change).tuned_in_place;
  };
  std::uint64_t too_small = 1, enough = 1 << 24;  // for a block in one file
  ASSERT_TRUE(fits(enough, Experts::kReplicated));
  while (enough - too_small > 1) {
    const std::uint64_t middle = (too_small + enough) / 2;
    (fits(middle, Experts::kReplicated) ? enough : too_small) = middle;
  }
  EXPECT_FALSE(fits(enough / 2, Experts::kReplicated));
  EXPECT_TRUE(fits(enough / 2, Experts::kDivided)) << "three of its four parts are experts alone";
  EXPECT_FALSE(fits(enough / 8, Experts::kDivided));
}

}  // namespace
}  // namespace roundtable
