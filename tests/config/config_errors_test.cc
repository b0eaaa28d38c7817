// Every kind of bad input gives one line with file, line, key and what to do.
#include "tests/config/config_fixture.h"

namespace roundtable {
namespace {

// ---- unknown and repeated names --------------------------------------------------------------------------------

TEST(ConfigErrors, UnknownKeyNamesLineKeyNearestAndValidOnes) {
  EXPECT_THAT(parse_error(kModel + "quantization:\n  bits: 4\n  group_sise: 64\n"),
              AllOf(StartsWith("c.yaml:5: quantization: unknown key 'group_sise'; did you mean group_size? keys of "
                               "quantization: bits, group_size, scheme,"),
                    HasSubstr("data_type")));
}

TEST(ConfigErrors, AKeyOfAnotherSectionIsPointedThere) {
  EXPECT_THAT(parse_error(kModel + "quantization: {iters: 5}"), HasSubstr("did you mean tuning.iters?"));
  EXPECT_THAT(parse_error(kModel + "iters: 5"),
              StartsWith("c.yaml:3: unknown section 'iters'; did you mean tuning.iters? sections: model, "));
}

TEST(ConfigErrors, NonsenseGetsNoGuess) {
  EXPECT_THAT(parse_error(kModel + "quantization: {zzzzzzzz: 5}"),
              AllOf(HasSubstr("unknown key 'zzzzzzzz'; keys of quantization: bits"), Not(HasSubstr("did you mean"))));
}

TEST(ConfigErrors, UnknownSection) {
  EXPECT_THAT(parse_error(kModel + "\nquantisation:\n  bits: 4\n"),
              StartsWith("c.yaml:4: unknown section 'quantisation'; did you mean quantization? sections: model, "
                         "calibration, storage, quantization, tuning, parallel, cluster, output, run"));
}

TEST(ConfigErrors, YamlsMergeKeyIsNoSection) {
  EXPECT_THAT(parse_error("<<: {path: m}\n"), HasSubstr("unknown section '<<'"));
}

TEST(ConfigErrors, KeyGivenTwice) {
  EXPECT_EQ(parse_error(kModel + "tuning:\n  iters: 4\n  seed: 1\n  iters: 4\n"),
            "c.yaml:6: 'tuning.iters' is given twice, first in line 4");
  EXPECT_THAT(parse_error("model: {path: a, path: b}"), HasSubstr("'model.path' is given twice"));
}

TEST(ConfigErrors, SectionGivenTwice) {
  EXPECT_EQ(parse_error(kModel + "tuning:\n  iters: 4\nmodel:\n  path: n\n"),
            "c.yaml:5: 'model' is given twice, first in line 1");
}

TEST(ConfigErrors, KeysMustBeTexts) {
  EXPECT_THAT(parse_error("? [a, b]\n: 1\n"),
              StartsWith("c.yaml:1: expected a name before the colon, found ['a', 'b']"));
  EXPECT_THAT(parse_error(kModel + "tuning: {~: 1}"), HasSubstr("expected a name before the colon, found nothing"));
  EXPECT_THAT(parse_error(kModel + "tuning: {{a: b}: 1}"), HasSubstr("expected a name before the colon"));
}

TEST(ConfigErrors, ANameWithControlCharactersStaysOnOneLine) {
  EXPECT_THAT(parse_error("\"a\\nb\\e[1m\": 1\n"), HasSubstr("unknown section 'a\\x0ab\\x1b[1m'"));
  EXPECT_THAT(parse_error(std::string(100000, 'k') + ": 1\n").size(), testing::Lt(400u));
}

// ---- ill-typed and out of range --------------------------------------------------------------------------------

struct BadValue {
  const char* key;
  const char* value;
  std::string problem;
};

void PrintTo(const BadValue& bad, std::ostream* out) { *out << bad.key << ": " << bad.value; }

class ConfigBadValue : public testing::TestWithParam<BadValue> {};

TEST_P(ConfigBadValue, NamesLineKeyExpectedAndFound) {
  const auto& [dotted, value, problem] = GetParam();
  const std::string key = dotted;
  const auto dot = key.find('.');
  const std::string text = kModel + key.substr(0, dot) + ":\n  " + key.substr(dot + 1) + ": " + value + "\n";
  EXPECT_EQ(parse_error(text), "c.yaml:4: " + key + ": " + problem);
}

INSTANTIATE_TEST_SUITE_P(
    Whole, ConfigBadValue,
    testing::Values(
        BadValue{"quantization.bits", "5", "expected 2, 3, 4 or 8, found '5'"},
        BadValue{"quantization.bits", "four", "expected 2, 3, 4 or 8, found 'four'"},
        BadValue{"quantization.bits", "4.0", "expected 2, 3, 4 or 8, found '4.0'"},
        BadValue{"quantization.bits", "4 bits", "expected 2, 3, 4 or 8, found '4 bits'"},
        BadValue{"quantization.bits", "4x", "expected 2, 3, 4 or 8, found '4x'"},
        BadValue{"quantization.bits", "\"4\"", "expected 2, 3, 4 or 8, found the text '4'"},
        BadValue{"quantization.bits", "|\n    4", "expected 2, 3, 4 or 8, found the text '4'"},
        BadValue{"quantization.bits", "", "expected 2, 3, 4 or 8, found nothing"},
        BadValue{"quantization.bits", "[4]", "expected 2, 3, 4 or 8, found ['4']"},
        BadValue{"quantization.bits", "{a: 4}", "expected 2, 3, 4 or 8, found a mapping"},
        BadValue{"quantization.bits", "true", "expected 2, 3, 4 or 8, found 'true'"},
        BadValue{"quantization.group_size", "0", "expected -1 or a whole number from 1 to 1048576, found '0'"},
        BadValue{"quantization.group_size", "-2", "expected -1 or a whole number from 1 to 1048576, found '-2'"},
        BadValue{"quantization.group_size", "1048577",
                 "expected -1 or a whole number from 1 to 1048576, found '1048577'"},
        BadValue{"calibration.n_samples", "0", "expected a whole number from 1 to 16777216, found '0'"},
        BadValue{"calibration.n_samples", "010", "expected a whole number from 1 to 16777216, found '010'"},
        BadValue{"calibration.n_samples", "0x10", "expected a whole number from 1 to 16777216, found '0x10'"},
        BadValue{"calibration.n_samples", "1_000", "expected a whole number from 1 to 16777216, found '1_000'"},
        BadValue{"calibration.n_samples", "1e3", "expected a whole number from 1 to 16777216, found '1e3'"},
        BadValue{"calibration.n_samples", "+8", "expected a whole number from 1 to 16777216, found '+8'"},
        BadValue{"calibration.seqlen", "0", "expected a whole number from 1 to 1048576, found '0'"},
        BadValue{"calibration.seqlen", "1048577", "expected a whole number from 1 to 1048576, found '1048577'"},
        BadValue{"tuning.iters", "-1", "expected a whole number from 0 to 1048576, found '-1'"},
        BadValue{"tuning.batch_size", "0", "expected a whole number from 1 to 1048576, found '0'"},
        BadValue{"tuning.gradient_accumulate_steps", "0", "expected a whole number from 1 to 1048576, found '0'"},
        BadValue{"tuning.seed", "-1", "expected a whole number of at least 0, found '-1'"},
        BadValue{"tuning.seed", "9223372036854775808",
                 "expected a whole number of at least 0, found '9223372036854775808'"},
        BadValue{"tuning.seed", "18446744073709551617",
                 "expected a whole number of at least 0, found '18446744073709551617'"},
        BadValue{"tuning.micro_batch", "-1", "expected a whole number from 0 to 1048576, found '-1'"},
        BadValue{"parallel.shards", "-1", "expected a whole number from 0 to 1048576, found '-1'"},
        BadValue{"parallel.stages", "-1", "expected a whole number from 0 to 1048576, found '-1'"},
        BadValue{"parallel.threads", "-1", "expected a whole number from 0 to 1048576, found '-1'"}));

INSTANTIATE_TEST_SUITE_P(
    Real, ConfigBadValue,
    testing::Values(BadValue{"tuning.lr", "-0.1", "expected a number of at least 0, found '-0.1'"},
                    BadValue{"tuning.lr", "nan", "expected a number of at least 0, found 'nan'"},
                    BadValue{"tuning.lr", ".nan", "expected a number of at least 0, found '.nan'"},
                    BadValue{"tuning.lr", "inf", "expected a number of at least 0, found 'inf'"},
                    BadValue{"tuning.lr", "1e999", "expected a number of at least 0, found '1e999'"},
                    BadValue{"tuning.lr", "1/200", "expected a number of at least 0, found '1/200'"},
                    BadValue{"tuning.lr", "0,1", "expected a number of at least 0, found '0,1'"},
                    BadValue{"tuning.minmax_lr", "-1", "expected a number of at least 0, found '-1'"},
                    BadValue{"tuning.minmax_lr", "'1'", "expected a number of at least 0, found the text '1'"}));

const std::string kFormatList = "expected a list of different items, each text that is not empty, found ";

INSTANTIATE_TEST_SUITE_P(
    Other, ConfigBadValue,
    testing::Values(BadValue{"tuning.amp", "yes", "expected true or false, found 'yes'"},
                    BadValue{"tuning.amp", "True", "expected true or false, found 'True'"},
                    BadValue{"tuning.amp", "1", "expected true or false, found '1'"},
                    BadValue{"tuning.amp", "'true'", "expected true or false, found the text 'true'"},
                    BadValue{"tuning.sampler", "random", "expected strata or rand, found 'random'"},
                    BadValue{"quantization.scheme", "SYM", "expected sym or asym, found 'SYM'"},
                    BadValue{"quantization.scale_dtype", "bf16", "expected fp16, found 'bf16'"},
                    BadValue{"quantization.data_type", "fp8", "expected int, mx_fp or nv_fp, found 'fp8'"},
                    BadValue{"parallel.backend", "gloo", "expected auto, mpi or nccl, found 'gloo'"},
                    BadValue{"output.max_shard_size", "5", "expected a size such as 5GB or 500MB, found '5'"},
                    BadValue{"output.max_shard_size", "0GB", "expected a size such as 5GB or 500MB, found '0GB'"},
                    BadValue{"output.max_shard_size", "99999999999TB",
                             "expected a size such as 5GB or 500MB, found '99999999999TB'"},
                    BadValue{"output.path", "[a]", "expected a path, found ['a']"},
                    BadValue{"output.path", "~", "expected a path, found nothing; write \"\" for an empty text"},
                    BadValue{"output.path", "", "expected a path, found nothing; write \"\" for an empty text"},
                    // Which names there are is for export/ to say: tests/export/format_test.cc.
                    BadValue{"output.formats", "auto_round:auto_gptq", kFormatList + "'auto_round:auto_gptq'"},
                    BadValue{"output.formats", "[]", kFormatList + "[]"},
                    BadValue{"output.formats", "['']", kFormatList + "[the text '']"},
                    BadValue{"output.formats", "[[a]]", kFormatList + "[a list]"},
                    BadValue{"output.formats", "[gguf, gguf]", kFormatList + "['gguf', 'gguf']"}));

TEST(ConfigErrors, ALongListIsCutInTheMessage) {
  std::string text = kModel + "output: {formats: [a";
  for (int i = 0; i < 10000; ++i) text += ", a";
  EXPECT_THAT(parse_error(text + "]}"), AllOf(HasSubstr(", ...]"), testing::SizeIs(testing::Lt(400u))));
}

// ---- the shape of the file -------------------------------------------------------------------------------------

TEST(ConfigErrors, ASectionThatIsNoMapping) {
  EXPECT_THAT(parse_error("model: some/path\n"),
              StartsWith("c.yaml:1: model: expected a section with keys, found 'some/path'; keys of model: path"));
  EXPECT_THAT(parse_error(kModel + "tuning:\n  - iters\n"),
              StartsWith("c.yaml:3: tuning: expected a section with keys, found ['iters']; keys of tuning: recipe,"));
}

TEST(ConfigErrors, AFileThatIsNoMapping) {
  EXPECT_THAT(parse_error("- model\n"), StartsWith("c.yaml:1: expected sections, found ['model']; sections: model,"));
  EXPECT_THAT(parse_error("\njust words\n"), StartsWith("c.yaml:2: expected sections, found 'just words'"));
}

TEST(ConfigErrors, AnEmptyFile) {
  for (const auto* text : {"", "\n\n", "# only a comment\n", "---\n", "--- ~\n", "\xEF\xBB\xBF"}) {
    EXPECT_THAT(parse_error(text), StartsWith("c.yaml: is empty; sections: model, calibration,")) << text;
  }
}

TEST(ConfigErrors, YamlSyntaxNamesLineAndColumn) {
  EXPECT_THAT(parse_error("model:\n  path: [a, b\n"), ContainsRegex("^c.yaml:[0-9]+:[0-9]+: YAML syntax: "));
  EXPECT_THAT(parse_error("model:\n  path: m\n path: n\n"), StartsWith("c.yaml:3:2: YAML syntax: "));
  EXPECT_THAT(parse_error("model:\n\tpath: m\n"), StartsWith("c.yaml:2:"));
}

TEST(ConfigErrors, AQuoteThatIsNeverClosedDoesNotSwallowTheRest) {
  for (const std::string quote : {"\"", "'"}) {
    for (const std::string rest :
         {"", "\n", "\n\n  \n", "\ntuning:\n  iters: 3\n", "\r\ntuning:\r\n", "\n# comment\n"}) {
      EXPECT_THAT(parse_error("model:\n  path: " + quote + "a" + rest),
                  ContainsRegex("^c.yaml:[0-9]+:[0-9]+: YAML syntax: "))
          << rest;
    }
  }
}

TEST(ConfigErrors, AliasesAnchorsAndTagsAreRefused) {
  EXPECT_EQ(parse_error("model: &m\n  path: m\nrun: *m\n"), "c.yaml:1: anchors (&name) are not supported");
  EXPECT_EQ(parse_error("model:\n  path: &p m\n"), "c.yaml:2: anchors (&name) are not supported");
  EXPECT_EQ(parse_error("model:\n  path: &p\n"), "c.yaml:2: anchors (&name) are not supported");
  EXPECT_EQ(parse_error("model:\n  path: !!str m\n"), "c.yaml:2: tags (!name) are not supported");
  EXPECT_EQ(parse_error("model: !m\n  path: m\n"), "c.yaml:1: tags (!name) are not supported");
}

TEST(ConfigErrors, ABombOfAliasesIsRefusedAtOnce) {
  std::string text = "a: &a [x, x, x, x, x, x, x, x, x]\n";
  for (char name = 'b'; name < 'm'; ++name) {
    text += fmt::format("{0}: &{0} [", name);
    for (int i = 0; i < 9; ++i) text += fmt::format("{}*{}", i ? ", " : "", static_cast<char>(name - 1));
    text += "]\n";
  }
  EXPECT_EQ(parse_error(text), "c.yaml:1: anchors (&name) are not supported");
}

TEST(ConfigErrors, DeepNestingIsRefused) {
  for (const std::string open : {"[", "{a: ", "- ", "? ", "[{", "{", "- ? "}) {
    std::string text = "model: ";
    if (open[0] == '-' || open[0] == '?') text.clear();
    for (int i = 0; i < 100000; ++i) text += open;
    EXPECT_THAT(parse_error(text), StartsWith("c.yaml:")) << open;
  }
}

TEST(ConfigErrors, MoreThanOneDocument) {
  EXPECT_EQ(parse_error(kModel + "---\n" + kModel), "c.yaml: holds more than one YAML document");
}

TEST(ConfigErrors, WhatIsNoTextIsRefused) {
  EXPECT_EQ(parse_error("model: {path: \xFF}"), "c.yaml: is not UTF-8 text");
  EXPECT_EQ(parse_error(std::string("model: {path: a\0b}", 18)), "c.yaml: is not UTF-8 text");
  EXPECT_EQ(parse_error("\x7F"
                        "ELF\x02\x01"),
            "c.yaml: is not UTF-8 text");
}

TEST_F(ConfigFile, OtherKindsOfBadFile) {
  const std::string missing = directory_ / "none.yaml";
  EXPECT_EQ(error_of([&] { load_config(missing, {}); }),
            missing + ": cannot open the config: No such file or directory; check the path");
  EXPECT_EQ(error_of([&] { load_config(directory_, {}); }),
            directory_.string() + ": cannot read the config: Is a directory; check the path");
  const std::string large = write(kModel + std::string(1 << 20, '#'));
  EXPECT_EQ(error_of([&] { load_config(large, {}); }), large + ": is larger than 1 MiB, so it is not a config");
  EXPECT_EQ(error_of([&] { load_config("/dev/zero", {}); }), "/dev/zero: is larger than 1 MiB, so it is not a config");
  const std::string bad = write(kModel + "tuning: {iters: x}\n");
  EXPECT_THAT(error_of([&] { load_config(bad, {}); }), StartsWith(bad + ":3: tuning.iters: expected "));
}

TEST_F(ConfigFile, AFileOfExactlyOneMebibyteIsTaken) {
  EXPECT_EQ(load_config(write(kModel + std::string((1 << 20) - kModel.size(), '#')), {}).model.path, "m");
}

// ---- overrides -------------------------------------------------------------------------------------------------

TEST(ConfigErrors, OverridesOfTheWrongForm) {
  for (const auto* option : {"", "tuning.iters", "iters=3", "=3", "tuning=a.b", "="}) {
    EXPECT_EQ(set_error(option), fmt::format("--set '{}': expected section.key=value", option));
  }
}

TEST(ConfigErrors, OverridesOfUnknownNames) {
  EXPECT_THAT(set_error("tunning.iters=3"),
              StartsWith("--set 'tunning.iters=3': unknown section 'tunning'; did you mean tuning? sections: model,"));
  EXPECT_THAT(set_error("tuning.iter=3"),
              StartsWith("--set 'tuning.iter=3': unknown key 'iter'; did you mean iters? keys of tuning: recipe,"));
  EXPECT_THAT(set_error("tuning.=3"), HasSubstr("unknown key ''; keys of tuning"));
  EXPECT_THAT(set_error(".iters=3"), HasSubstr("unknown section ''"));
  EXPECT_THAT(set_error("tuning.iters.x=3"), HasSubstr("unknown key 'iters.x'"));
}

TEST(ConfigErrors, OverridesOfTheWrongType) {
  EXPECT_EQ(set_error("tuning.iters=3.0"),
            "--set 'tuning.iters=3.0': expected a whole number from 0 to 1048576, found '3.0'");
  EXPECT_EQ(set_error("tuning.amp="), "--set 'tuning.amp=': expected true or false, found ''");
  EXPECT_THAT(set_error("tuning.iters= 3"), HasSubstr("found ' 3'"));
  EXPECT_THAT(set_error("output.formats="), HasSubstr("expected a list"));
  EXPECT_THAT(set_error("output.formats=gguf,gguf"), HasSubstr("expected a list"));
  EXPECT_THAT(set_error("output.formats=[gguf, gguf]"), HasSubstr("expected a list"));
  EXPECT_THAT(set_error("output.formats=[]"), HasSubstr("expected a list"));
  EXPECT_THAT(set_error("output.formats=[[a]]"), HasSubstr("expected a list"));
  EXPECT_THAT(set_error("output.path=\xFF"), HasSubstr("is not UTF-8 text"));
}

// ---- what must be set ------------------------------------------------------------------------------------------

TEST(ConfigErrors, ModelPathIsRequired) {
  const std::string line = "c.yaml: model.path: is not set; write it there, or add --set model.path=VALUE";
  EXPECT_EQ(parse_error("tuning: {iters: 3}"), line);
  EXPECT_EQ(parse_error("model: {path: \"\"}"), line);
}

TEST(ConfigErrors, OtherKeysAreRequiredOnRequest) {
  const Config config = parse(kModel);
  EXPECT_EQ(error_of([&] {
              require_keys(config, {"model.path", "output.path"}, "c.yaml");
            }),
            "c.yaml: output.path: is not set; write it there, or add --set output.path=VALUE");
  EXPECT_NO_THROW(require_keys(config, {"model.path"}));
  EXPECT_THROW(require_keys(config, {"tuning.iters"}), std::logic_error);  // our own bug, not the user's
}

}  // namespace
}  // namespace roundtable
