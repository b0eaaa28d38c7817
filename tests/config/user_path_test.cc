// Paths as users write them: ~ is expanded, $ is refused, slashes are tidied, for every path of the config.
#include "config/user_path.h"

#include <cstdlib>

#include "tests/config/config_fixture.h"

namespace roundtable {
namespace {

// HOME is what the test says.
class UserPath : public testing::Test {
 protected:
  UserPath() : home_(std::getenv("HOME") == nullptr ? "" : std::getenv("HOME")) { setenv("HOME", "/home/me", 1); }
  ~UserPath() override { setenv("HOME", home_.c_str(), 1); }

 private:
  std::string home_;
};

// The keys that name files or folders.
const std::vector<std::string> kPathKeys = {"model.path", "model.graph", "calibration.tokens", "calibration.cache",
                                            "calibration.estimate", "output.path",        "run.directory",
                                            "run.eval_tokens",      "run.logits"};

TEST_F(UserPath, IsSpelledInOneWay) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"", ""},          {"o", "o"},       {"o/", "o"},  {"o//", "o"},      {"o/.", "o"},       {"o/./", "o"},
      {"a//b/", "a/b"},  {"/", "/"},       {"///", "/"}, {".", "."},        {"./", "."},        {"..", ".."},
      {"../o/", "../o"}, {"./o", "./o"},   {"a.", "a."}, {"~", "/home/me"}, {"~/", "/home/me"}, {"~/o/", "/home/me/o"},
      {"a~/b", "a~/b"},  {"./~x", "./~x"},
  };
  for (const auto& [written, meant] : cases) EXPECT_EQ(path_from_user(written, "key"), meant) << written;
}

TEST_F(UserPath, VariablesAndOtherHomesAreRefused) {
  for (const char* path : {"$SCRATCH/o", "a/${X}", "~/$USER"}) {
    EXPECT_THAT(error_of([&] { path_from_user(path, "c.yaml:3: output.path"); }),
                AllOf(StartsWith("c.yaml:3: output.path: '"), HasSubstr("variables are not expanded here")));
  }
  EXPECT_THAT(error_of([&] { path_from_user("~you/o", "key"); }), HasSubstr("to your own home folder"));
}

TEST_F(UserPath, OfEveryKeyThatNamesAFile) {
  for (const std::string& key : kPathKeys) {
    const std::string config = to_yaml(parse(kModel, {key + "=~/a//b/"}));
    EXPECT_THAT(config, HasSubstr(key.substr(key.find('.') + 1) + ": /home/me/a/b\n")) << key;
    EXPECT_THAT(set_error(key + "=$X/a"), HasSubstr("variables are not expanded here")) << key;
  }
  EXPECT_EQ(parse("model:\n  path: ~/m/\n").model.path, "/home/me/m");
  EXPECT_THAT(parse_error("model:\n  path: $M\n"), StartsWith("c.yaml:2: model.path: '$M' holds a $"));
  // None is missing from the list.
  const std::string help = describe_keys();
  std::size_t paths = 0;
  for (std::size_t at = help.find("[a path"); at != std::string::npos; at = help.find("[a path", at + 1)) ++paths;
  EXPECT_EQ(paths, kPathKeys.size());
}

TEST_F(UserPath, OfTheConfigItself) {
  EXPECT_THAT(error_of([] { load_config("$X/c.yaml", {}); }), StartsWith("CONFIG: "));
  EXPECT_THAT(error_of([] { load_config("~/none.yaml", {}); }), StartsWith("/home/me/none.yaml: "));
  EXPECT_THAT(error_of([] { load_config("none.yaml", {}); }),
              HasSubstr("check the path (it is relative to " + fs::current_path().string() + ")"));
}

}  // namespace
}  // namespace roundtable
