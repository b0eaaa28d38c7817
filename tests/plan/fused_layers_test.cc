// The warnings of layers that engines fuse and whose schemes differ.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan/plan.h"
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

}  // namespace
}  // namespace roundtable
