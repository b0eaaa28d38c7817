// Rules to schemes: what wins, and what is said of layers that stay as they are.
#include "plan/layer_schemes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "export/registry.h"
#include "tests/graph/tiny_models.h"

namespace roundtable {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

const Model& model() {
  static const Model twelve_blocks = testing::tiny_llama_model({.blocks = 12});
  return twelve_blocks;
}

QuantizationSection section(const WeightRules& rules, const std::vector<std::string>& ignored = {}) {
  QuantizationSection section;
  section.group_size = 32;
  section.weight_config = rules;
  section.ignore_layers = ignored;
  return section;
}

LayerSchemes resolved(const QuantizationSection& section) {
  return resolve_schemes(section, model(), {&format_named("auto_round:auto_gptq", "")});
}

// "4 bits, sym, groups of 32", or "16".
std::string scheme_at(const LayerSchemes& schemes, std::size_t block, const std::string& layer) {
  const auto& linears = model().linears(0);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    if (linears[i].name != layer) continue;
    return schemes.blocks[block][i] ? scheme_text(*schemes.blocks[block][i]) : "16";
  }
  return "no such layer";
}

TEST(LayerSchemes, WithoutRulesAllAreAlike) {
  const LayerSchemes schemes = resolved(section({}));
  ASSERT_EQ(schemes.blocks.size(), 12u);
  EXPECT_EQ(scheme_at(schemes, 11, "mlp.down_proj"), "4 bits, sym, groups of 32");
  EXPECT_TRUE(schemes.float_reasons.empty());
}

TEST(LayerSchemes, TheVeryNameGoesFirstThenTheLastThatMatches) {
  const LayerSchemes schemes = resolved(section({{"model.layers.1.mlp.up_proj", 8, {}, {}, {}},
                                                 {"up_proj", 3, {}, {}, {}},
                                                 {"layers.1", {}, 64, {}, {}},
                                                 {".*q_proj", {}, -1, Symmetry::kAsym, {}}}));
  EXPECT_EQ(scheme_at(schemes, 1, "mlp.up_proj"), "8 bits, sym, groups of 32");
  EXPECT_EQ(scheme_at(schemes, 0, "mlp.up_proj"), "3 bits, sym, groups of 32");
  EXPECT_EQ(scheme_at(schemes, 1, "self_attn.k_proj"), "4 bits, sym, groups of 64");
  EXPECT_EQ(scheme_at(schemes, 1, "self_attn.q_proj"), "4 bits, asym, one group a channel");
  EXPECT_EQ(scheme_at(schemes, 10, "self_attn.k_proj"), "4 bits, sym, groups of 32");  // not of layers.1
}

TEST(LayerSchemes, IgnoredLayersStayWhateverTheRulesSay) {
  const LayerSchemes schemes =
      resolved(section({{"v_proj", 8, {}, {}, {}}, {"layers.[4-6].*o_proj", 16, {}, {}, RuleType::kFloat}},
                       {"layers.0.self_attn", "down"}));
  EXPECT_EQ(scheme_at(schemes, 0, "self_attn.v_proj"), "16");
  EXPECT_EQ(scheme_at(schemes, 1, "self_attn.v_proj"), "8 bits, sym, groups of 32");
  EXPECT_THAT(
      schemes.float_reasons,
      ElementsAre("self_attn.q_proj (block 0) stays in 16 bits: quantization.ignore_layers 'layers.0.self_attn'",
                  "self_attn.k_proj (block 0) stays in 16 bits: quantization.ignore_layers 'layers.0.self_attn'",
                  "self_attn.v_proj (block 0) stays in 16 bits: quantization.ignore_layers 'layers.0.self_attn'",
                  "self_attn.o_proj (block 0) stays in 16 bits: quantization.ignore_layers 'layers.0.self_attn'",
                  "self_attn.o_proj (blocks 4-6) stays in 16 bits: quantization.weight_config 'layers.[4-6].*o_proj'",
                  "mlp.down_proj stays in 16 bits: quantization.ignore_layers 'down'"));
}

TEST(LayerSchemes, ALayerThatTheFormatCannotHoldStays) {
  const LayerSchemes schemes = resolved(section({{"layers.[07]$|layers.[07].mlp.down", {}, 64, {}, {}}}));
  EXPECT_EQ(scheme_at(schemes, 7, "mlp.down_proj"), "16");
  ASSERT_EQ(schemes.float_reasons.size(), 1u);
  EXPECT_THAT(schemes.float_reasons[0],
              HasSubstr("mlp.down_proj (blocks 0, 7) stays in 16 bits: group_size 64 does not"));
}

TEST(LayerSchemes, ExpertsThatShareAReasonAreOneLine) {
  static const Model mixtral = testing::tiny_mixtral_model({.llama = {.blocks = 2}});
  const LayerSchemes schemes =
      resolve_schemes(section({}, {"experts.*w3", "layers.0.*experts.[1-2].w2", "experts.3.w2"}), mixtral,
                      {&format_named("auto_round:auto_gptq", "")});
  EXPECT_THAT(schemes.float_reasons,
              UnorderedElementsAre(
                  "block_sparse_moe.experts.*.w3 (4 experts) stays in 16 bits: quantization.ignore_layers 'experts.*w3'",
                  "block_sparse_moe.experts.*.w2 (2 experts, block 0) stays in 16 bits: quantization.ignore_layers "
                  "'layers.0.*experts.[1-2].w2'",
                  "block_sparse_moe.experts.3.w2 stays in 16 bits: quantization.ignore_layers 'experts.3.w2'"));
}

TEST(LayerSchemes, FloatsOfFourBitsHaveOneLayout) {
  QuantizationSection floats = section({});
  floats.data_type = WeightType::kMxFp4;
  const auto line = [](const QuantizationSection& section) -> std::string {
    try {
      resolve_schemes(section, model(), {&format_named("mxfp4", "")});
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(line(floats), "");
  EXPECT_EQ(scheme_text(*resolve_schemes(floats, model(), {&format_named("mxfp4", "")}).blocks[0][0]),
            "floats of 4 bits (mx_fp), groups of 32");
  floats.weight_config = {{"up_proj", 8, {}, {}, {}}, {"down_proj", 16, {}, {}, RuleType::kFloat}};
  EXPECT_THAT(line(floats), HasSubstr("weights of data_type mx_fp are sym, of 4 bits, in groups of 32"));
  floats.weight_config.erase(floats.weight_config.begin());  // the other rule keeps a layer
  EXPECT_EQ(line(floats), "");
  floats.data_type = WeightType::kNvFp4;
  EXPECT_THAT(line(floats),
              HasSubstr("quantization.data_type: weights of data_type nv_fp are sym, of 4 bits, in groups of 16; "
                        "set bits: 4, group_size: 16 and scheme: sym"));
}

// A Llama of three blocks whose k_proj is kept in 16 bits by default, and whose v_proj chooses experts.
Model with_kept_layer() {
  const testing::TinyLlama llama{.blocks = 3};
  testing::GraphFiles files = testing::llama_model(llama, 16, torch::kFloat32);
  for (auto& tensor : files.model["kinds"][0]["tensors"]) {
    if (tensor["disk"] == "self_attn.k_proj.weight") tensor["use"] = "kept";
    if (tensor["disk"] == "self_attn.v_proj.weight") tensor["use"] = "router";
  }
  return testing::model_from(files, testing::llama_config(llama));
}

// "k_proj of block 1: 8 bits, sym, groups of 32"; nothing where no block has it among its linears.
std::vector<std::string> kept_layers(const WeightRules& rules, const std::vector<std::string>& ignored = {}) {
  const LayerSchemes schemes = resolve_schemes(section(rules, ignored), with_kept_layer(),
                                               {&format_named("auto_round:auto_gptq", "")});
  std::vector<std::string> found;
  for (std::size_t block = 0; block < 3; ++block) {
    const auto& linears = schemes.model.linears(static_cast<std::int64_t>(block));
    EXPECT_EQ(schemes.blocks[block].size(), linears.size());
    for (std::size_t i = 0; i < linears.size(); ++i) {
      if (linears[i].name != "self_attn.k_proj") continue;
      found.push_back(schemes.blocks[block][i] ? scheme_text(*schemes.blocks[block][i]) : "16");
    }
  }
  EXPECT_EQ(schemes.by_rule.size(), std::any_of(found.begin(), found.end(), [](auto& f) { return f != "16"; }));
  return found;
}

TEST(LayerSchemes, AKeptLayerIsQuantizedByARuleForItAlone) {
  const std::string eight = "8 bits, sym, groups of 32";
  EXPECT_THAT(kept_layers({}), ElementsAre());
  EXPECT_THAT(kept_layers({{"k_proj", 8, {}, {}, {}}}), ElementsAre(eight, eight, eight));
  EXPECT_THAT(kept_layers({{"layers.1.self_attn.k_proj", 8, {}, {}, {}}}), ElementsAre("16", eight, "16"));
  // A rule that is for other layers too does not ask for it.
  EXPECT_THAT(kept_layers({{"[kq]_proj", 8, {}, {}, {}}}), ElementsAre());
  EXPECT_THAT(kept_layers({{"layers.0.self_attn.k_proj", 4, {}, {}, {}}, {"self_attn", {}, 64, {}, {}}}),
              ElementsAre("4 bits, sym, groups of 64", "16", "16"));
  // To leave it as it is may always be said.
  EXPECT_THAT(kept_layers({{"k_proj", 16, {}, {}, {}}}, {"k_proj", "v_proj"}), ElementsAre());
  EXPECT_THAT(kept_layers({{"k_proj", 8, {}, {}, {}}}, {"layers.2"}), ElementsAre(eight, eight, "16"));
}

TEST(LayerSchemes, ARuleForARouterIsRefused) {
  try {
    kept_layers({{"v_proj", 8, {}, {}, {}}});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_THAT(error.what(), HasSubstr("quantization.weight_config 'v_proj': matches only layers that are never "
                                        "quantized, such as self_attn.v_proj"));
  }
}

TEST(LayerSchemes, ARuleThatMatchesNothingIsRefused) {
  try {
    resolved(section({{"q_proj", 8, {}, {}, {}}, {"layers.12.mlp", 8, {}, {}, {}}}));
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_THAT(error.what(),
                HasSubstr("quantization.weight_config 'layers.12.mlp': matches no layer that is quantized; "
                          "layers: model.layers.N.NAME with N from 0 to 11 and NAME of self_attn.q_proj,"));
  }
}

}  // namespace
}  // namespace roundtable
