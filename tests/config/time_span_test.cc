// Lengths of time: the forms that are taken and those that are not, and the keys that hold one.
#include "config/time_span.h"

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
    EXPECT_EQ(seconds_of(text), seconds) << text;
  }
}

TEST(TimeSpan, WhatIsNone) {
  for (const char* text : {"", " ", "-1", "1e3", "nan", "inf", "1:2", "00:60:00", "00:00:60", "1-24:00:00", "1-2", "a:b:c",
                           "1:2:3:4", "-1:00:00", "1--2:00:00", "01:02:03 ", "9999999999:00:00", "3 minutes"}) {
    EXPECT_FALSE(seconds_of(text)) << text;
  }
}

TEST(TimeSpan, KeysThatHoldOne) {
  EXPECT_EQ(parse(kModel + "run:\n  max_time: 3600\n").run.max_time, "3600");
  EXPECT_EQ(parse(kModel + "run:\n  max_time: 1-00:00:00\n").run.max_time, "1-00:00:00");
  EXPECT_EQ(parse(kModel, {"run.time_limit="}).run.time_limit, "");
  EXPECT_THAT(set_error("run.max_time=soon"), AllOf(HasSubstr("run.max_time"), HasSubstr("D-HH:MM:SS"), HasSubstr("'soon'")));
  EXPECT_THAT(set_error("run.time_limit=0"), HasSubstr("run.time_limit"));
}

}  // namespace
}  // namespace roundtable
