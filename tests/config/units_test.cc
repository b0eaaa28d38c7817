// Sizes and lengths of time: the forms that are taken and those that are not, and the keys that hold one.
#include "config/units.h"

#include "tests/config/config_fixture.h"

namespace roundtable {
namespace {

TEST(TimeSpan, Forms) {
  for (const auto& [text, seconds] : std::vector<std::pair<std::string, double>>{{"0", 0},
                                                                                 {"90", 90},
                                                                                 {"1.5", 1.5},
                                                                                 {"00:00:01", 1},
                                                                                 {"1:02:03", 3723},
                                                                                 {"48:00:00", 172800},
                                                                                 {"2-00:00:00", 172800},
                                                                                 {"1-02:03:04", 93784}}) {
    ASSERT_TRUE(TimeSpan::parse(text)) << text;
    EXPECT_EQ(TimeSpan::parse(text)->seconds(), seconds) << text;
    EXPECT_EQ(TimeSpan(text).text(), text);
  }
}

TEST(TimeSpan, OtherTextIsRefused) {
  for (const char* text : {" ", "-1", "1e3", "nan", "inf", "1:2", "00:60:00", "00:00:60", "1-24:00:00", "1-2", "a:b:c",
                           "1:2:3:4", "-1:00:00", "1--2:00:00", "01:02:03 ", "9999999999:00:00", "3 minutes"}) {
    EXPECT_FALSE(TimeSpan::parse(text)) << text;
  }
}

TEST(TimeSpan, TheEmptyTextIsNone) {
  ASSERT_TRUE(TimeSpan::parse(""));
  EXPECT_TRUE(TimeSpan::parse("")->empty());
  EXPECT_FALSE(TimeSpan("0").empty());
}

TEST(TimeSpan, KeysThatHoldOne) {
  EXPECT_EQ(parse(kModel + "run:\n  max_time: 3600\n").run.max_time, TimeSpan("3600"));
  EXPECT_EQ(parse(kModel + "run:\n  max_time: 1-00:00:00\n").run.max_time.seconds(), 86400);
  EXPECT_TRUE(parse(kModel, {"run.time_limit="}).run.time_limit.empty());
  EXPECT_THAT(set_error("run.max_time=soon"),
              AllOf(HasSubstr("run.max_time"), HasSubstr("D-HH:MM:SS"), HasSubstr("'soon'")));
  EXPECT_THAT(set_error("run.time_limit=0"), HasSubstr("run.time_limit"));
  EXPECT_THAT(parse_error(kModel + "run: {max_time: }"), HasSubstr("found nothing; write \"\" for an empty text"));
}

TEST(ByteSize, Forms) {
  for (const auto& [text, bytes] : std::vector<std::pair<std::string, std::int64_t>>{{"1B", 1},
                                                                                     {"200KB", 200'000},
                                                                                     {"5GB", 5'000'000'000},
                                                                                     {"3TB", 3'000'000'000'000},
                                                                                     {"1MiB", 1 << 20},
                                                                                     {"2GiB", std::int64_t{2} << 30}}) {
    ASSERT_TRUE(ByteSize::parse(text)) << text;
    EXPECT_EQ(ByteSize::parse(text)->bytes(), bytes) << text;
    EXPECT_EQ(ByteSize(text).text(), text);
  }
}

TEST(ByteSize, OtherTextIsRefused) {
  for (const char* text : {" ", "5", "GB", "0GB", "-1GB", "1.5GB", "5 GB", "5gb", "1EB", "99999999999TB"}) {
    EXPECT_FALSE(ByteSize::parse(text)) << text;
  }
}

TEST(ByteSize, KeysThatHoldOne) {
  const Config config = parse(kModel + "storage: {alignment: 1MiB}\n");
  EXPECT_EQ(config.storage.alignment.bytes(), 1 << 20);
  EXPECT_TRUE(config.storage.stripe_size.empty());
  EXPECT_THAT(to_yaml(config), AllOf(HasSubstr("  alignment: \"1MiB\"\n"), HasSubstr("  stripe_size: \"\"\n")));
  EXPECT_TRUE(parse(kModel + "storage: {alignment: 1MiB}\n", {"storage.alignment="}).storage.alignment.empty());
  EXPECT_THAT(set_error("storage.alignment=x"), HasSubstr("expected a size such as 1MiB, or nothing, found 'x'"));
  EXPECT_THAT(set_error("output.max_shard_size="), HasSubstr("expected a size such as 5GB or 500MB, found ''"));
}

}  // namespace
}  // namespace roundtable
