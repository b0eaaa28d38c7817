// The config reader: what it takes, and that its dump reads back.
#include "tests/config/config_fixture.h"
#include "tests/config/other_value.h"

namespace roundtable {
namespace {

// ---- good input ------------------------------------------------------------------------------------------------

TEST(Config, DefaultsHoldWhereNothingIsSaid) {
  Config expected;
  expected.model.path = "m";
  EXPECT_EQ(parse(kModel), expected);
}

TEST(Config, ReadsEveryTypeOfKey) {
  const Config config = parse(R"(
# a comment
model: {path: "models/a b"}
quantization:
  bits: 3
  group_size: -1
  enable_full_range: false
tuning:
  lr: 5.0e-3   # a comment
  minmax_lr: 1
run:
  eval_tokens: 'it''s.json'
output:
  formats:
    - auto_round:auto_gptq
)");
  EXPECT_EQ(config.model.path, "models/a b");
  EXPECT_EQ(config.quantization.bits, 3);
  EXPECT_EQ(config.quantization.group_size, -1);
  EXPECT_FALSE(config.quantization.enable_full_range);
  EXPECT_EQ(config.tuning.lr, 5e-3);
  EXPECT_EQ(config.tuning.minmax_lr, 1);
  EXPECT_EQ(config.run.eval_tokens, "it's.json");
  EXPECT_EQ(config.output.formats, std::vector<std::string>{"auto_round:auto_gptq"});
}

TEST(Config, ATextKeyTakesWhatLooksLikeAnotherType) {
  EXPECT_EQ(parse("model: {path: 123}").model.path, "123");
  EXPECT_EQ(parse("model: {path: true}").model.path, "true");
}

TEST(Config, ASectionWithAllKeysCommentedOutIsEmpty) {
  EXPECT_EQ(parse(kModel + "tuning:\n#  iters: 3\noutput:\n").tuning.iters, 200);
}

TEST(Config, ByteOrderMarkAndWindowsLineEndsAreTaken) {
  EXPECT_EQ(parse("\xEF\xBB\xBFmodel:\r\n  path: m\r\n").model.path, "m");
}

TEST(Config, OverridesApplyInOrderAfterTheFile) {
  const Config config =
      parse(kModel + "tuning: {iters: 1}", {"tuning.iters=2", "tuning.iters=3", "tuning.amp=false", "tuning.lr=1e-2"});
  EXPECT_EQ(config.tuning.iters, 3);
  EXPECT_FALSE(config.tuning.amp);
  EXPECT_EQ(config.tuning.lr, 1e-2);
}

TEST(Config, AnOverridesTextIsTakenAsItStands) {
  EXPECT_EQ(parse(kModel, {"output.path=a b: #c=d.e"}).output.path, "a b: #c=d.e");
  EXPECT_EQ(parse(kModel + "run: {eval_tokens: x}", {"run.eval_tokens="}).run.eval_tokens, "");
  EXPECT_EQ(parse(kModel, {"output.formats=auto_round:auto_gptq"}).output.formats.size(), 1u);
}

using Items = std::vector<std::string>;

Items ignored(const std::string& text) {
  return parse(kModel, {"quantization.ignore_layers=" + text}).quantization.ignore_layers;
}

TEST(Config, AListMayBeWrittenAsInAFileOrWithCommas) {
  const Items formats = {"auto_round:auto_gptq", "qdq"};
  for (const auto* text : {"[auto_round:auto_gptq, qdq]", "[auto_round:auto_gptq,qdq]",
                           "['auto_round:auto_gptq', \"qdq\"]", "auto_round:auto_gptq,qdq"}) {
    EXPECT_EQ(parse(kModel, {fmt::format("output.formats={}", text)}).output.formats, formats) << text;
  }
  EXPECT_EQ(ignored("[]"), Items());
  EXPECT_EQ(ignored(""), Items());
}

TEST(Config, ACommaInsideARegularExpressionDoesNotEndIt) {
  const std::string blocks = "layers\\.\\d{1,2}\\.mlp";
  EXPECT_EQ(ignored(blocks), Items{blocks});
  EXPECT_EQ(ignored(blocks + ",lm_head"), (Items{blocks, "lm_head"}));
  EXPECT_EQ(ignored("(a,b)c,[,(]d,e"), (Items{"(a,b)c", "[,(]d", "e"}));
  EXPECT_EQ(ignored("a\\{,b\\(,c"), (Items{"a\\{", "b\\(", "c"}));
  EXPECT_EQ(ignored("[qk]_proj"), Items{"[qk]_proj"});
  EXPECT_EQ(ignored("[qk]_proj,[ov]"), (Items{"[qk]_proj", "[ov]"}));
}

TEST(Config, AListReadsBackAsItIsPrinted) {
  Config config = parse(kModel);
  config.quantization.ignore_layers = {"\\d{1,2}", "[qk]_proj", "a b", "lm_head", "\"", "(x|y),z"};
  const std::string yaml = to_yaml(config);
  const std::string key = "ignore_layers: ";
  const std::size_t begin = yaml.find(key) + key.size();
  EXPECT_EQ(ignored(yaml.substr(begin, yaml.find('\n', begin) - begin)), config.quantization.ignore_layers);
}

TEST(Config, ModelPathMayComeFromAnOverride) {
  EXPECT_EQ(parse("tuning: {iters: 0}", {"model.path=x"}).model.path, "x");
}

TEST_F(ConfigFile, IsReadFromDisk) { EXPECT_EQ(load_config(write(kModel), {"tuning.seed=7"}).tuning.seed, 7); }

// ---- round trip and tables -------------------------------------------------------------------------------------

// Changes every field to another valid value, so that a key which the dump forgets shows.
struct Changer {
  template <class Struct>
  void section(const char*, Struct& fields, const char*) {
    fields.visit(*this);
  }
  template <class T>
  void operator()(const char* key, T& field, Effect, const char*, const Constraint<T>& constraint) {
    const std::optional<T> other = other_value(field, constraint);
    EXPECT_EQ(other.has_value(), std::string(key) != "scale_dtype") << key;  // which has one value alone
    if (other) field = *other;
  }
};

TEST_F(ConfigFile, TheDumpReadsBackToTheSameValues) {
  Config config;
  Changer changer;
  config.visit(changer);
  EXPECT_EQ(load_config(write(to_yaml(config)), {}), config) << to_yaml(config);
  EXPECT_EQ(parse(to_yaml(parse(kModel))), parse(kModel));
}

TEST(Config, TheDumpKeepsTextsThatYamlWouldReadOtherwise) {
  for (const std::string text :
       {"null", "-",    "---", "...", "a: b", "a:",    " a", "a ",           "#a",       "&a",
        "*a",   "!a",   "[a",  "{",   "?",    "a #b",  "'",  "\"",           "\\",       "\n",
        "%a",   "@a",   "`a",  "1e3", "true", "C:\\x", "<<", "\xE2\x80\xA8", "\xC2\x85", "/plain/path-1.0:x",
        "a,b",  "\x7F", "| x", "> x"}) {
    Config config;
    config.model.path = text;
    EXPECT_EQ(parse(to_yaml(config)).model.path, text) << to_yaml(config);
  }
}

TEST(Config, TheDumpKeepsEveryBitOfANumber) {
  for (const double lr :
       {0.0, 0.1, 1.0 / 3, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e22, 123456789.0}) {
    Config config = parse(kModel);
    config.tuning.lr = lr;
    EXPECT_EQ(parse(to_yaml(config)).tuning.lr, lr) << to_yaml(config);
  }
}

struct KeyLister {
  std::vector<std::string> keys;
  std::string section_name;

  template <class Struct>
  void section(const char* name, Struct& fields, const char* help) {
    EXPECT_STRNE(help, "");
    section_name = name;
    fields.visit(*this);
  }
  template <class T>
  void operator()(const char* key, T& field, Effect, const char* help, const Constraint<T>& constraint) {
    keys.push_back(section_name + "." + key);
    EXPECT_STRNE(help, "") << keys.back();
    EXPECT_TRUE(constraint.holds(field)) << "default of " << keys.back();
  }
};

TEST(Config, TheTableHoldsEveryKey) {
  KeyLister lister;
  Config().visit(lister);
  const std::string table = describe_keys();
  for (const auto& key : lister.keys) EXPECT_THAT(table, HasSubstr("  " + key + " "));
  EXPECT_THAT(lister.keys, testing::IsSupersetOf({"model.path", "calibration.tokens", "calibration.n_samples",
                                                  "quantization.bits", "tuning.gradient_accumulate_steps",
                                                  "parallel.shards", "output.formats", "run.eval_tokens"}));
}

// ---- what visit() demands --------------------------------------------------------------------------------------

struct Strict {
  template <class T>
  void operator()(const char*, T&, Effect, const char*, const Constraint<T>&) {}
};

// Would take a key that does not say whether it changes the result.
struct Careless : Strict {
  using Strict::operator();
  template <class T>
  void operator()(const char*, T&, const char*, const Constraint<T>&) {}
};

// Keys are given to visitors, and no visitor takes a key without its effect: such a key does not compile.
static_assert(ConfigVisitor<Strict> && ConfigVisitor<Changer> && ConfigVisitor<KeyLister>);
static_assert(!ConfigVisitor<Careless>);

template <class Section, class Visitor>
concept Takes = requires(Section section, Visitor visitor) {
  section.visit(visitor);
};
static_assert(Takes<TuningSection, Strict> && !Takes<TuningSection, Careless>);
static_assert(Takes<RunSection, Strict> && !Takes<RunSection, Careless>);

template <class E>
constexpr bool has_distinct_words() {
  for (const Choice<E>& one : kChoices<E>) {
    if (value_of<E>(one.word) != one.value || word_of(one.value) != one.word || one.word.empty()) return false;
  }
  return true;
}
static_assert(has_distinct_words<Symmetry>() && has_distinct_words<WeightType>() && has_distinct_words<RuleType>() &&
              has_distinct_words<ScaleDtype>() && has_distinct_words<Recipe>() && has_distinct_words<LrScheduler>() &&
              has_distinct_words<OptimizerKind>() && has_distinct_words<InitScale>() &&
              has_distinct_words<OutlierSuppressedLoss>() && has_distinct_words<SamplerKind>() &&
              has_distinct_words<Backend>() &&
              has_distinct_words<GradientDtype>());
static_assert(!IsChoice<Effect> && !IsChoice<int>);

TEST(Config, AWordInQuotesIsTheSameWord) {
  EXPECT_EQ(parse(kModel + "tuning: {optimizer: 'adamw'}").tuning.optimizer, OptimizerKind::kAdamW);
  EXPECT_EQ(parse(kModel, {"quantization.scheme=asym"}).quantization.scheme, Symmetry::kAsym);
}

TEST(Config, EveryRecipeLoads) {
  if (!fs::exists(ROUNDTABLE_CONFIGS)) return;
  for (const auto& entry : fs::directory_iterator(ROUNDTABLE_CONFIGS)) {
    if (entry.path().extension() != ".yaml") continue;
    EXPECT_EQ(error_of([&] {
                const Config config = load_config(entry.path(), {});
                require_keys(config, {"calibration.tokens", "output.path"}, entry.path().string());
              }),
              "");
  }
}

}  // namespace
}  // namespace roundtable
