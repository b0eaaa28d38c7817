// The warnings of layers that engines fuse and whose schemes differ.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan/plan.h"
#include "tests/graph/stacked_graph.h"
#include "tests/graph/tiny_models.h"
#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class FusedLayers : public ::testing::Test {
 protected:
  // A Llama of four blocks, or a Mixtral of as many with four experts.
  std::vector<std::string> warnings(const std::vector<std::string>& formats, const WeightRules& rules,
                                    const std::vector<std::string>& ignored = {}, bool mixtral = false) const {
    static constexpr testing::TinyLlama kLlama{
        .hidden = 256, .intermediate = 512, .head_dim = 64, .vocab = 512, .blocks = 4};
    static const Model llama_model = testing::tiny_llama_model(kLlama, 64);
    static const Model mixtral_model = testing::tiny_mixtral_model({.llama = kLlama}, 64);
    const Model& model = mixtral ? mixtral_model : llama_model;
    Config config;
    config.model.path = folder_.path();
    config.output.path = folder_.path() + "/out";
    config.output.formats = formats;
    config.quantization.group_size = 32;
    config.quantization.weight_config = rules;
    config.quantization.ignore_layers = ignored;
    config.calibration.n_samples = 16;
    config.calibration.seqlen = 64;
    return lay_out(config, {model, model}, {1, 1}).warnings;
  }

  TemporaryFolder folder_;
};

const WeightRule kKeyIn8{"layers.[1-3].self_attn.k_proj", 8, {}, {}, {}};

TEST_F(FusedLayers, PartsThatDifferAreNamedWithTheirBlocksAndWhatEnginesDo) {
  const std::string parts =
      "blocks 1-3: self_attn.q_proj, self_attn.v_proj (4 bits, sym, groups of 32), self_attn.k_proj (8 bits, sym, "
      "groups "
      "of 32) are one layer in vLLM and SGLang, which ";
  for (const char* format : {"auto_round:auto_gptq", "auto_round"}) {
    EXPECT_THAT(warnings({format}, {kKeyIn8}), ElementsAre(parts + "refuse " + format + " here; give them one scheme"));
  }
  for (const char* format : {"auto_gptq", "llm_compressor"}) {
    EXPECT_THAT(warnings({format}, {kKeyIn8}),
                ElementsAre(parts + "misread " + format + " here; give them one scheme"));
  }
  EXPECT_THAT(
      warnings({"auto_round", "auto_gptq", "llm_compressor", "auto_round:auto_gptq"}, {kKeyIn8}),
      Contains(parts + "refuse auto_round, auto_round:auto_gptq and misread auto_gptq, llm_compressor here; give "
                       "them one scheme"));
}

TEST_F(FusedLayers, PartsThatStayIn16BitsAreRefused) {
  for (const char* format :
       {"auto_round:auto_gptq", "auto_round", "auto_round:auto_awq", "auto_awq", "llm_compressor"}) {
    EXPECT_THAT(
        warnings({format}, {}, {"up_proj"}),
        ElementsAre(AllOf(HasSubstr("all blocks: mlp.gate_proj (4 bits, sym, groups of 32), mlp.up_proj (16 bits)"),
                          HasSubstr(std::string("refuse ") + format))));
  }
  EXPECT_THAT(warnings({"auto_gptq"}, {}, {"up_proj"}), ElementsAre(HasSubstr("misread auto_gptq")));
}

TEST_F(FusedLayers, WhatIsNotFusedOrNamedAloneIsNoMatter) {
  EXPECT_THAT(warnings({"auto_round", "llm_compressor"}, {{"o_proj", 8, {}, {}, {}}}, {"layers.1.mlp.down"}),
              IsEmpty());
  EXPECT_THAT(warnings({"auto_round", "llm_compressor"}, {{"[qkv]_proj", 8, {}, {}, {}}}), IsEmpty());
  EXPECT_THAT(warnings({"auto_round", "auto_awq", "auto_gptq"}, {}, {"self_attn"}), IsEmpty());
  EXPECT_THAT(warnings({"qdq"}, {kKeyIn8}), Not(Contains(HasSubstr("one layer"))));
  EXPECT_THAT(warnings({"gguf"}, {kKeyIn8}), Not(Contains(HasSubstr("one layer"))));
}

TEST_F(FusedLayers, ARuleOfAutoGptqIsNotFoundUnderTheFusedName) {
  EXPECT_THAT(
      warnings({"auto_gptq"}, {{"[qkv]_proj", 8, {}, {}, {}}}),
      ElementsAre("all blocks: self_attn.q_proj, self_attn.k_proj, self_attn.v_proj (8 bits, sym, groups of 32) "
                  "are one layer in vLLM and SGLang, which misread auto_gptq here; without settings of their own "
                  "they are read right"));
  EXPECT_THAT(warnings({"auto_gptq"}, {{"o_proj", 8, {}, {}, {}}}), IsEmpty());
}

TEST_F(FusedLayers, AllExpertsOfABlockAreOneLayer) {
  const WeightRule one{"layers.2.*experts.3.w2", 8, {}, {}, {}};
  EXPECT_THAT(warnings({"auto_round", "llm_compressor"}, {one}, {}, true),
              Contains(AllOf(HasSubstr("block 2: "), HasSubstr(".0.w1 and 10 more (4 bits, sym, groups of 32), "),
                             HasSubstr(".3.w2 (8 bits, sym, groups of 32) are one layer"),
                             HasSubstr("which misread auto_round, llm_compressor here"))));
  const WeightRule of_first{"layers.2.*experts.0.w2", 2, {}, {}, {}};
  EXPECT_THAT(warnings({"auto_round", "llm_compressor"}, {one, of_first}, {}, true),
              Contains(AllOf(HasSubstr("block 2: "), HasSubstr("which refuse auto_round, llm_compressor here"))));
  EXPECT_THAT(warnings({"auto_round", "llm_compressor"}, {}, {"experts"}, true), Not(Contains(HasSubstr("one layer"))));
  EXPECT_THAT(warnings({"auto_awq", "auto_gptq"}, {}, {"experts"}, true),
              Contains(AllOf(HasSubstr("and 11 more (16 bits)"), HasSubstr("misread auto_awq, auto_gptq"))));
}

// Experts that are one tensor in the model, in formats that write them one by one.
class StackedExperts : public ::testing::Test {
 protected:
  Plan plan(const Model& model, const std::vector<std::string>& formats, const std::vector<std::string>& ignored = {}) {
    Config config;
    config.model.path = folder_.path();
    config.output.path = folder_.path() + "/out";
    config.output.formats = formats;
    config.quantization.group_size = 32;
    config.quantization.ignore_layers = ignored;
    config.calibration.n_samples = 16;
    config.calibration.seqlen = 4;
    return lay_out(config, {model, model}, {1, 1});
  }
  static Model gpt_oss() {
    return testing::model_from(testing::stacked_files({.by_turns = true}), {{"model_type", "gpt_oss"}});
  }

  TemporaryFolder folder_;
};

TEST_F(StackedExperts, WhoReadsThemIsSaid) {
  EXPECT_THAT(plan(gpt_oss(), {"auto_gptq", "auto_round", "qdq"}).warnings,
              Contains("auto_gptq, auto_round: only transformers 5 with auto-round reads the experts of gpt_oss "
                       "(mlp.experts.down_proj) when they are quantized; vLLM and SGLang do not load them: keep them "
                       "in 16 bits (quantization.ignore_layers), or choose qdq"));
  const Model unknown = testing::model_from(
      testing::stacked_files({.gate_up = "mlp.experts.fc1.weight", .down = "mlp.experts.fc2.weight"}));
  EXPECT_THAT(plan(unknown, {"llm_compressor"}).warnings,
              Contains("llm_compressor: it is not known that any engine reads the experts of llama "
                       "(mlp.experts.fc2.weight) when they are quantized"));
  const auto quiet = Not(Contains(HasSubstr("the experts of")));
  EXPECT_THAT(plan(gpt_oss(), {"auto_gptq"}, {"experts"}).warnings, quiet);
  EXPECT_THAT(plan(testing::model_from(testing::stacked_files({})), {"auto_gptq", "llm_compressor"}).warnings, quiet);
}

TEST_F(StackedExperts, WhatNobodyReadsIsRefused) {
  try {
    plan(gpt_oss(), {"llm_compressor"});
    FAIL() << "it was planned";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_STREQ(error.what(),
                 "output.formats: llm_compressor cannot hold this: no reader of it loads quantized experts of gpt_oss, "
                 "whose rows are gate and up by turns; formats that can: auto_round:auto_gptq, auto_round, "
                 "auto_round:auto_awq, auto_gptq, auto_awq, qdq");
  }
}

TEST_F(StackedExperts, AreTakenApartWhereOneIsQuantized) {
  const Model model = testing::model_from(testing::stacked_files({}));
  EXPECT_TRUE(plan(model, {"auto_gptq"}).stacks_apart);
  EXPECT_TRUE(plan(model, {"auto_gptq"}, {"layers.0.mlp.experts"}).stacks_apart);
  EXPECT_FALSE(plan(model, {"auto_gptq"}, {"experts"}).stacks_apart);
}

}  // namespace
}  // namespace roundtable
