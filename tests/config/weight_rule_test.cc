// Settings of single layers, and recipes: what is read, what wins, which layers a rule means.
#include "config/weight_rule.h"

#include "tests/config/config_fixture.h"

namespace roundtable {
namespace {

const std::string kRules = kModel + "quantization:\n  weight_config:\n";  // what follows starts in line 5

TEST(WeightConfig, IsReadInItsOrder) {
  const Config config = parse(kRules + R"(
    model.layers.0.mlp.down_proj: {bits: 8, group_size: -1}
    ".*[qk]_proj": {scheme: asym, data_type: int}
    lm: {bits: 16}
    o_proj: {data_type: float}
)");
  const WeightRules expected = {{"model.layers.0.mlp.down_proj", 8, -1, {}, {}},
                                {".*[qk]_proj", {}, {}, Symmetry::kAsym, RuleType::kInt},
                                {"lm", 16, {}, {}, RuleType::kFloat},
                                {"o_proj", 16, {}, {}, RuleType::kFloat}};
  EXPECT_EQ(config.quantization.weight_config, expected);
  EXPECT_EQ(parse(to_yaml(config)), config);
}

TEST(WeightConfig, AnOptionIsAMappingOfItsOwn) {
  const Config config = parse(kRules + "    a: {bits: 2}\n", {"quantization.weight_config={'b.*': {bits: 3}}"});
  EXPECT_EQ(config.quantization.weight_config, (WeightRules{{"b.*", 3, {}, {}, {}}}));
  EXPECT_EQ(parse(kRules + "    a: {bits: 2}\n", {"quantization.weight_config="}).quantization.weight_config,
            WeightRules{});
  EXPECT_EQ(parse(kModel, {"quantization.ignore_layers=a,b.*"}).quantization.ignore_layers,
            (std::vector<std::string>{"a", "b.*"}));
}

TEST(WeightConfig, WhatIsWrongIsNamedWithItsLine) {
  const std::string at = "c.yaml:5: weight_config 'a'";
  EXPECT_EQ(parse_error(kRules + "    a: {bits: 5}\n"), at + ": bits: expected 2, 3, 4, 8 or 16, found '5'");
  EXPECT_EQ(parse_error(kRules + "    a: {scheme: both}\n"), at + ": scheme: expected sym or asym, found 'both'");
  EXPECT_EQ(parse_error(kRules + "    a: {group_size: 0}\n"),
            at + ": group_size: expected -1 or a whole number from 1 to 1048576, found '0'");
  EXPECT_EQ(parse_error(kRules + "    a: {data_type: mx_fp}\n"),
            at + ": data_type: expected int or float, found 'mx_fp'");
  EXPECT_EQ(parse_error(kRules + "    a: {bit: 4}\n"),
            at + ": bit: unknown key 'bit'; did you mean bits? keys: bits, group_size, scheme, data_type");
  EXPECT_EQ(parse_error(kRules + "    a: 4\n"),
            at + ": expected settings, found '4'; keys: bits, group_size, scheme, data_type");
  EXPECT_EQ(parse_error(kRules + "    a: {}\n"),
            at + ": expected settings, found a mapping; keys: bits, group_size, scheme, data_type");
  EXPECT_EQ(parse_error(kRules + "    a: {bits: 4, data_type: float}\n"),
            at + ": 16 bits and data_type float belong together; give one of them, or bits of 2, 3, 4 or 8");
  EXPECT_THAT(parse_error(kRules + "    \"a(\": {bits: 4}\n"),
              HasSubstr("weight_config 'a(': is not a regular expression"));
  EXPECT_THAT(parse_error(kRules + "    \"(a?){9999}\": {bits: 4}\n"),
              HasSubstr("c.yaml:5: weight_config '(a?){9999}': is too large a regular expression"));
  EXPECT_THAT(parse_error(kRules + "    a: {bits: 4}\n    a: {bits: 3}\n"), HasSubstr("c.yaml:6: 'a' is given twice"));
  EXPECT_THAT(parse_error(kModel + "quantization: {weight_config: [a]}\n"),
              HasSubstr("quantization.weight_config: expected layer names or regular expressions with settings"));
  EXPECT_THAT(set_error("quantization.weight_config={a: {bits: 5}}"),
              AllOf(StartsWith("--set "), HasSubstr("found '5'")));
}

bool means(const std::string& rule, const std::string& layer) { return LayerPattern(rule, "here").matches(layer); }

TEST(LayerPattern, ReadsNamesAndExpressionsAsThePeerDoes) {
  const std::string q = "model.layers.1.self_attn.q_proj";
  EXPECT_TRUE(means(q, q));
  EXPECT_TRUE(LayerPattern(q, "").is_exactly(q));
  EXPECT_TRUE(means("q_proj", q));  // a part of the name
  EXPECT_TRUE(means("layers.1.", q));
  EXPECT_TRUE(means("layers.1", q));
  EXPECT_FALSE(means("layers.1", "model.layers.10.self_attn.q_proj"));
  EXPECT_TRUE(means("layers.1", "x.layers.10.layers.1"));
  EXPECT_FALSE(means("layersX1", q));
  EXPECT_TRUE(means("self_attn.*q_proj", q));
  EXPECT_TRUE(means("^model.*q_proj$", q));
  EXPECT_FALSE(means("^self_attn", q));
  EXPECT_TRUE(means("[qkv]_proj", q));
  EXPECT_FALSE(means("layers.[23].", q));
  EXPECT_TRUE(means("(up|q)_proj", q));
  EXPECT_FALSE(means("layers.1.self.attn$|none", q));  // a bare dot is a dot
  EXPECT_TRUE(means("layers\\.\\d+\\.self", q));
  EXPECT_TRUE(means("layers.+q_proj", q));
}

// cli/main.py, RECIPES, of auto-round 0.16.1.
TEST(Recipe, SetsThePeersValues) {
  const auto values = [](const Config& c) {
    return std::tuple(c.tuning.batch_size, c.tuning.iters, c.calibration.seqlen, c.calibration.n_samples, c.tuning.lr);
  };
  EXPECT_EQ(values(parse(kModel)), std::tuple(8, 200, 2048, 128, 0.0));
  EXPECT_EQ(values(parse(kModel + "tuning: {recipe: best}")), std::tuple(8, 1000, 2048, 512, 0.0));
  EXPECT_EQ(values(parse(kModel, {"tuning.recipe=light"})), std::tuple(8, 50, 2048, 128, 5e-3));
  EXPECT_EQ(values(parse(kModel + "tuning: {recipe: rtn}")), std::tuple(8, 0, 2048, 1, 0.0));
  EXPECT_EQ(values(parse(kModel + "tuning: {recipe: best}", {"tuning.recipe=default"})),
            std::tuple(8, 200, 2048, 128, 0.0));
}

TEST(Recipe, WhatIsGivenWins) {
  const Config config =
      parse(kModel + "tuning: {lr: 0.25, recipe: light}\ncalibration: {seqlen: 512}", {"tuning.iters=9"});
  EXPECT_EQ(config.tuning.lr, 0.25);
  EXPECT_EQ(config.tuning.iters, 9);
  EXPECT_EQ(config.calibration.seqlen, 512);
  EXPECT_EQ(config.calibration.n_samples, 128);
  EXPECT_EQ(parse(to_yaml(config)), config);
  EXPECT_THAT(parse_error(kModel + "tuning: {recipe: worst}"), HasSubstr("expected default, best, light or rtn"));
}

}  // namespace
}  // namespace roundtable
