// JSON files and the typed getters: what is refused, and that the error names the place.
#include "io/json_file.h"

#include <gmock/gmock.h>

#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::StrEq;

nlohmann::json load_text(const std::string& text) {
  const TemporaryFolder folder;
  return load_json(folder.put("config.json", text));
}

JsonObject object(const char* text) { return JsonObject(nlohmann::json::parse(text), "config.json"); }

TEST(LoadJson, ReadsAFile) { EXPECT_EQ(load_text(R"({"a": [1, 2.5, null]})").at("a").at(1), 2.5); }

TEST(LoadJson, NamesLineAndColumnOfASyntaxError) {
  EXPECT_BAD_INPUT(
      load_text("{\n  \"a\": 1,\n  \"b\": tru\n}"),
      AllOf(HasSubstr("config.json: is not valid JSON at line 3, column 11 (byte 23)"), HasSubstr("invalid literal")));
}

TEST(LoadJson, RefusesAFileThatEndsTooEarly) {
  EXPECT_BAD_INPUT(load_text("{\"a\": "), HasSubstr("unexpected end of input"));
  EXPECT_BAD_INPUT(load_text(""), HasSubstr("line 1, column 1"));
}

TEST(LoadJson, RefusesTextBehindTheEnd) { EXPECT_BAD_INPUT(load_text("{} {}"), HasSubstr("not valid JSON")); }

TEST(LoadJson, RefusesBrokenUtf8) { EXPECT_BAD_INPUT(load_text("[\"\xff\xfe\"]"), HasSubstr("UTF-8")); }

TEST(LoadJson, RefusesANumberOutOfRange) { EXPECT_BAD_INPUT(load_text("[1e999]"), HasSubstr("1e999")); }

TEST(LoadJson, RefusesAKeyThatOccursTwice) {
  EXPECT_BAD_INPUT(load_text(R"({"b": {"a": 1, "c": {}, "a": 2}})"), HasSubstr("key 'a' occurs twice"));
  EXPECT_NO_THROW(load_text(R"({"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]})"));
}

TEST(LoadJson, RefusesDeepNesting) {
  EXPECT_NO_THROW(load_text(std::string(200, '[') + std::string(200, ']')));
  EXPECT_BAD_INPUT(load_text(std::string(100000, '[')), HasSubstr("levels deep"));
}

TEST(LoadJson, RefusesAHugeFile) {
  const TemporaryFolder folder;
  const std::string path = folder.put("config.json", "");
  std::filesystem::resize_file(path, (std::uint64_t{256} << 20) + 1);  // sparse
  EXPECT_BAD_INPUT(load_json(path), HasSubstr("at most 268435456 are read"));
}

TEST(SaveJson, WritesWhatHuggingFaceWrites) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/config.json";
  save_json(path, nlohmann::json::parse(R"({"b": [1, "ü"], "a": {"c": 1e-05, "d": {}}})"));
  EXPECT_EQ(content_of(path),
            "{\n  \"a\": {\n    \"c\": 1e-05,\n    \"d\": {}\n  },\n  \"b\": [\n    1,\n"
            "    \"\\u00fc\"\n  ]\n}\n");
}

TEST(SaveJson, RefusesTextThatIsNotUtf8) {
  const TemporaryFolder folder;
  EXPECT_BAD_INPUT(save_json(folder.path() + "/a.json", {{"a", "\xff"}}), HasSubstr("UTF-8"));
}

TEST(JsonObject, RefusesWhatIsNoObject) {
  EXPECT_BAD_INPUT(object("[1]"), StrEq("config.json: must be a JSON object, not [1]"));
}

TEST(JsonObject, ReadsEachType) {
  const JsonObject config = object(R"({"i": -3, "d": 0.5, "s": "x", "b": true, "is": [1, 2], "ss": ["a"], "n": null})");
  EXPECT_EQ(config.get_int("i"), -3);
  EXPECT_EQ(config.get_double("d"), 0.5);
  EXPECT_EQ(config.get_double("i"), -3);
  EXPECT_EQ(config.get_string("s"), "x");
  EXPECT_TRUE(config.get_bool("b"));
  EXPECT_THAT(config.get_ints("is"), ElementsAre(1, 2));
  EXPECT_THAT(config.get_strings("ss"), ElementsAre("a"));
  EXPECT_TRUE(config.has("i"));
  EXPECT_FALSE(config.has("n"));
  EXPECT_FALSE(config.has("missing"));
}

TEST(JsonObject, FallsBackOnMissingAndNullAlone) {
  const JsonObject config = object(R"({"null": null, "text": "4"})");
  EXPECT_EQ(config.get_int_or("null", 7), 7);
  EXPECT_EQ(config.get_int_or("missing", 7), 7);
  EXPECT_EQ(config.get_double_or("missing", 0.5), 0.5);
  EXPECT_EQ(config.get_string_or("missing", "x"), "x");
  EXPECT_TRUE(config.get_bool_or("null", true));
  EXPECT_BAD_INPUT(config.get_int_or("text", 7), HasSubstr("key 'text': must be an integer, not \"4\""));
}

TEST(JsonObject, NamesAMissingKey) {
  EXPECT_BAD_INPUT(object("{}").get_int("hidden_size"), StrEq("config.json: key 'hidden_size': is missing"));
}

TEST(JsonObject, NamesAWrongType) {
  const JsonObject config = object(R"({"f": 1.5, "s": "x", "i": 1, "l": [1, "x"], "big": {"a": [1, 2]}})");
  EXPECT_BAD_INPUT(config.get_int("f"), HasSubstr("'f': must be an integer, not 1.5"));
  EXPECT_BAD_INPUT(config.get_int("big"), HasSubstr(R"(must be an integer, not {"a":[1,2]})"));
  EXPECT_BAD_INPUT(config.get_double("s"), HasSubstr("'s': must be a number, not \"x\""));
  EXPECT_BAD_INPUT(config.get_string("i"), HasSubstr("'i': must be a string, not 1"));
  EXPECT_BAD_INPUT(config.get_bool("i"), HasSubstr("'i': must be true or false, not 1"));
  EXPECT_BAD_INPUT(config.get_ints("l"), HasSubstr("'l': must be an integer, not \"x\""));
  EXPECT_BAD_INPUT(config.get_ints("i"), HasSubstr("'i': must be a list of integers, not 1"));
  EXPECT_BAD_INPUT(config.get_strings("l"), HasSubstr("'l': must be a list of strings"));
  EXPECT_BAD_INPUT(config.get_object("i"), HasSubstr("'i': must be an object, not 1"));
}

TEST(JsonObject, NamesTheRange) {
  const JsonObject config = object(R"({"i": 5, "d": 1.5, "huge": 18446744073709551615, "min": -9223372036854775808})");
  EXPECT_EQ(config.get_int("i", 5, 5), 5);
  EXPECT_EQ(config.get_int("min"), std::numeric_limits<std::int64_t>::min());
  EXPECT_BAD_INPUT(config.get_int("i", 1, 4), HasSubstr("'i': is 5, and must lie in [1, 4]"));
  EXPECT_BAD_INPUT(config.get_int("i", 6), HasSubstr("'i': is 5, and must be at least 6"));
  EXPECT_BAD_INPUT(config.get_int("huge"), HasSubstr("is 18446744073709551615"));
  EXPECT_BAD_INPUT(config.get_double("d", 0, 1), HasSubstr("'d': is 1.5, and must lie in [0, 1]"));
}

TEST(JsonObject, NamesTheWholePathInside) {
  const JsonObject config = object(R"({"a": {"b": {"c": 1}}})");
  EXPECT_BAD_INPUT(config.get_object("a").get_object("b").get_string("c"), StartsWith("config.json: key 'a.b.c': "));
}

TEST(JsonObject, NamesAKeyThatIsUnknown) {
  const JsonObject object(nlohmann::json{{"first", 1}, {"second", {{"inner", 2}}}}, "x.json");
  EXPECT_NO_THROW(object.expect_keys({"first", "second", "third"}));
  EXPECT_BAD_INPUT(object.expect_keys({"first", "seconds"}),
                   ::testing::StrEq("x.json: key 'second': is unknown; did you mean seconds? remove it"));
  EXPECT_BAD_INPUT(object.get_object("second").expect_keys({"colour"}),
                   ::testing::StrEq("x.json: key 'second.inner': is unknown; remove it"));
}

}  // namespace
}  // namespace roundtable
