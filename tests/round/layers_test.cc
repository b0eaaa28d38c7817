// Models by the names, shapes and types of their tensors.
#include "round/layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "export/registry.h"
#include "round/schemes.h"
#include "tests/round/made_up.h"

namespace roundtable {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using nlohmann::json;
using Tensors = std::vector<testing::MadeUpTensor>;

constexpr auto kBF16 = ElementType::kBF16;
constexpr auto kFp8 = ElementType::kF8E4M3;

NamedModel named(const Tensors& tensors, const json& config = {{"model_type", "made_up"}}) {
  const TemporaryFolder folder;
  testing::write_made_up(folder.path(), tensors, config);
  const CheckpointSource source(folder.path());
  return name_model(source, folder.path(), config);
}

std::string refusal(const Tensors& tensors, const json& config = {{"model_type", "made_up"}}) {
  try {
    named(tensors, config);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    return error.what();
  }
  return "";
}

std::vector<std::string> names_of_use(const NamedModel& model, FoundLayer::Use use) {
  std::vector<std::string> names;
  for (const FoundLayer& layer : model.layers) {
    if (layer.use == use) names.push_back(layer.linear.name);
  }
  return names;
}

Tensors two_blocks() {
  return {{"core.embed.weight", kBF16, {50, 8}},
          {"core.stages.0.mix.weight", kBF16, {16, 8}},
          {"core.stages.1.mix.weight", kBF16, {16, 8}}};
}

TEST(NamedModel, PartsOfALargerModelAreToldApart) {
  Tensors tensors = two_blocks();
  const Tensors more = {{"core.stages.0.gate.weight", kBF16, {4, 8}},
                        {"core.stages.0.b_proj.weight", kBF16, {4, 8}},
                        {"core.stages.0.pre_norm.weight", kBF16, {8}},
                        {"core.stages.2.mix.weight", kBF16, {16, 8}},  // behind the last: more tokens are predicted
                        {"vision_tower.layers.0.mix.weight", kBF16, {512, 512}},
                        {"core.shift.weight", kBF16, {8, 8}},
                        {"lm_head.weight", kBF16, {50, 8}}};
  tensors.insert(tensors.end(), more.begin(), more.end());
  const json config = {{"model_type", "made_up"}, {"text_config", {{"num_hidden_layers", 2}, {"vocab_size", 48}}}};
  const NamedModel model = named(tensors, config);
  EXPECT_EQ(model.facts.n_blocks, 2);
  EXPECT_EQ(model.facts.first_block, "core.stages.0");
  EXPECT_EQ(model.facts.text_config, "text_config");
  EXPECT_EQ(model.facts.vocab_size, 48);
  EXPECT_EQ(model.facts.embedding, "core.embed.weight");
  EXPECT_EQ(model.facts.head_layer, "lm_head");
  EXPECT_FALSE(model.facts.tied_head);
  EXPECT_THAT(model.facts.outside_linears, ElementsAre("core.shift"));
  EXPECT_THAT(model.carried_over, ElementsAre("core.stages.2.mix.weight", "vision_tower.layers.0.mix.weight"));
  EXPECT_THAT(names_of_use(model, FoundLayer::Use::kDefault), ElementsAre("core.stages.0.mix", "core.stages.1.mix"));
  EXPECT_THAT(names_of_use(model, FoundLayer::Use::kKept), ElementsAre("core.stages.0.b_proj"));
  EXPECT_THAT(names_of_use(model, FoundLayer::Use::kNever), ElementsAre("core.stages.0.gate"));
}

TEST(NamedModel, AHeadIsTiedIfConfigJsonSaysSoAndItsBytesAreTheEmbeddings) {
  Tensors tensors = two_blocks();
  EXPECT_TRUE(named(tensors).facts.tied_head);
  tensors.push_back({"lm_head.weight", kBF16, {50, 8}});
  const json tied = {{"model_type", "made_up"}, {"tie_word_embeddings", true}};
  EXPECT_TRUE(named(tensors, tied).facts.tied_head);
  EXPECT_FALSE(named(tensors, tied).head.has_value());
  tensors.back().bytes = {1};
  EXPECT_FALSE(named(tensors, tied).facts.tied_head);
  EXPECT_TRUE(named(tensors, tied).facts.stored_head);
  EXPECT_TRUE(named(tensors, tied).head.has_value());
  EXPECT_FALSE(named(tensors).facts.stored_head);
}

TEST(NamedModel, HowAStackLiesFollowsFromTheShapesOfBothItsHalves) {
  struct Case {
    std::vector<std::int64_t> up, down;
    std::optional<bool> in_out;
  };
  for (const Case& one : {Case{{3, 32, 8}, {3, 8, 16}, false}, Case{{3, 8, 32}, {3, 16, 8}, true},
                          Case{{3, 8, 8}, {3, 8, 4}, false}, Case{{3, 8, 8}, {3, 4, 8}, true},
                          Case{{3, 32, 8}, {3, 9, 16}, std::nullopt}}) {
    Tensors tensors = two_blocks();
    tensors.push_back({"core.stages.1.experts.gate_up_proj", kBF16, one.up});
    tensors.push_back({"core.stages.1.experts.down_proj", kBF16, one.down});
    const NamedModel model = named(tensors);
    EXPECT_EQ(model.layers.size(), one.in_out ? 8u : 2u);
    for (const FoundLayer& layer : model.layers) {
      if (!layer.linear.stack) continue;
      EXPECT_EQ(layer.linear.transposed, *one.in_out);
      const auto& shape = layer.linear.stack->name.ends_with("gate_up_proj") ? one.up : one.down;
      EXPECT_EQ(layer.linear.weight().stored_shape(), std::vector(shape.begin() + 1, shape.end()));
    }
    if (one.in_out) EXPECT_EQ(names_of_use(model, FoundLayer::Use::kDefault)[1], "core.stages.1.experts.0.down_proj");
  }
}

TEST(NamedModel, WhatPublishersHaveQuantizedIsSeenAsMatrices) {
  Tensors tensors = two_blocks();
  const Tensors more = {{"core.stages.0.a.weight", kFp8, {16, 8}},
                        {"core.stages.0.a.weight_scale_inv", ElementType::kF32, {1, 1}},
                        {"core.stages.0.n.weight", ElementType::kU8, {16, 32}},
                        {"core.stages.0.n.weight_scale", kFp8, {16, 4}},
                        {"core.stages.0.n.weight_scale_2", ElementType::kF32, {}},
                        {"core.stages.0.n.input_scale", ElementType::kF32, {}},
                        {"core.stages.0.experts.down_proj_blocks", ElementType::kU8, {2, 8, 1, 16}},
                        {"core.stages.0.experts.down_proj_scales", ElementType::kU8, {2, 8, 1}}};
  tensors.insert(tensors.end(), more.begin(), more.end());
  const NamedModel model = named(tensors);
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> sizes;
  for (const auto& [linear, stored] : model.published) sizes[linear.name] = {linear.out, linear.in};
  EXPECT_EQ(sizes["core.stages.0.a"], std::pair(std::int64_t{16}, std::int64_t{8}));
  EXPECT_EQ(sizes["core.stages.0.n"], std::pair(std::int64_t{16}, std::int64_t{64}));
  EXPECT_EQ(sizes["core.stages.0.experts.1.down_proj"], std::pair(std::int64_t{8}, std::int64_t{32}));
  EXPECT_EQ(model.layers.size(), 2u + 4u);
}

TEST(NamedModel, WhatCannotBeUnderstoodIsRefused) {
  const Tensors whole = two_blocks();
  EXPECT_THAT(refusal({whole[0]}), HasSubstr("has no blocks"));
  EXPECT_THAT(refusal({{"vision.layers.0.a.weight", kBF16, {8, 8}}}), HasSubstr("has no blocks"));
  EXPECT_THAT(refusal({whole[0], whole[2]}), HasSubstr("has no block core.stages.0, and there is one of number 1"));
  EXPECT_THAT(refusal(whole, {{"model_type", "x"}, {"num_hidden_layers", 3}}),
              HasSubstr("has no block core.stages.2, and config.json says num_hidden_layers 3; fetch the rest"));
  const auto with = [&](const testing::MadeUpTensor& tensor) {
    Tensors tensors = whole;
    tensors.push_back(tensor);
    return refusal(tensors);
  };
  EXPECT_THAT(with({"core.stages.0.a.weight", kFp8, {8, 8}}), HasSubstr("'core.stages.0.a.weight_scale_inv' is missing"));
  EXPECT_THAT(with({"core.stages.0.a.qweight", ElementType::kI32, {8, 8}}),
              HasSubstr("'core.stages.0.a.qweight': is of type I32, and is no part of a matrix that is stored in a known"));
  EXPECT_THAT(with({"core.stages.0.x.w13_weight", ElementType::kU8, {2, 8, 8}}), HasSubstr("is of type U8"));
  EXPECT_EQ(with({"core.stages.0.table.weight", ElementType::kI64, {8, 8}}), "");
}

TEST(RoundedLayers, FollowTheRules) {
  Tensors tensors = two_blocks();
  for (testing::MadeUpTensor& tensor : tensors) tensor.shape = {64, 64};
  tensors.push_back({"core.stages.1.b_proj.weight", kBF16, {32, 64}});
  tensors.push_back({"core.stages.1.router.weight", kBF16, {32, 64}});
  tensors.push_back({"core.stages.1.odd.weight", kBF16, {32, 40}});
  const NamedModel model = named(tensors);
  const Formats formats = {&format_named("auto_round", "")};
  const auto bits_of = [&](const RoundedLayers& layers) {
    std::vector<int> bits;
    for (const LayerScheme& layer : layers.scheme.layers) bits.push_back(layer.scheme ? layer.scheme->bits : 16);
    return bits;
  };
  QuantizationSection section;
  section.group_size = 32;
  const RoundedLayers plain = choose_schemes(section, model, formats);
  EXPECT_THAT(bits_of(plain), ElementsAre(4, 16, 4, 16, 16));  // mix; b_proj, mix, odd, router
  EXPECT_THAT(plain.float_reasons, ElementsAre(HasSubstr("odd (block 1) stays in 16 bits: ")));
  section.weight_config = {{"b_proj", 8, {}, {}, {}}};
  section.ignore_layers = {"stages.0"};
  EXPECT_THAT(bits_of(choose_schemes(section, model, formats)), ElementsAre(16, 8, 4, 16, 16));
  const auto refused = [&](const WeightRules& rules) -> std::string {
    section.weight_config = rules;
    try {
      choose_schemes(section, model, formats);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(refused({{"router", 8, {}, {}, {}}}), HasSubstr("never quantized, such as router"));
  EXPECT_THAT(refused({{"mixx", 8, {}, {}, {}}}),
              HasSubstr("'mixx': matches no layer that is quantized; layers: core.stages.N.NAME with N from 0 to 1"));
  EXPECT_THAT(refused({{"lm_head", 8, {}, {}, {}}}), HasSubstr("tie_word_embeddings"));
  section.ignore_layers = {"stages"};
  EXPECT_THAT(refused({}), HasSubstr("no layer can be quantized: mix stays in 16 bits: quantization.ignore_layers"));
}

}  // namespace
}  // namespace roundtable
