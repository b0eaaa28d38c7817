// Text for people: what is text, how it is escaped and cut, which word was meant, and units.
#include "base/text.h"

#include <gtest/gtest.h>

namespace roundtable {
namespace {

TEST(Text, Utf8) {
  for (const std::string good : {"", "a\tb\r\n", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(is_text(good)) << good;
  }
  for (const std::string bad : {"\x80", "\xC3", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                                "\xF8\x88\x80\x80\x80", "a\x1B[0m", "\x7F", "\xE2\x82"}) {
    EXPECT_FALSE(is_text(bad)) << shown(bad);
  }
}

TEST(Text, ShownTextIsCutBetweenCharacters) {
  const std::string text = std::string(59, 'a') + "\xE2\x82\xAC" + "bbbb";
  EXPECT_EQ(shown(text), "'" + std::string(59, 'a') + "\xE2\x82\xAC" + "...'");
}

TEST(Text, PrintableTextIsEscapedAndCut) {
  EXPECT_EQ(printable(std::string("a\n\x1b[0mb\0c", 9)), "a\\x0a\\x1b[0mb\\x00c");
  EXPECT_EQ(printable(std::string(1000, 'x')), std::string(160, 'x') + "...");
}

TEST(Text, QuotedTextIsEscaped) { EXPECT_EQ(quoted("say \"a\\b\"\t\x7f"), R"("say \"a\\b\"\x09\x7f")"); }

TEST(Text, NearestWord) {
  const std::vector<std::string> keys = {"iters", "seed", "lr"};
  EXPECT_EQ(nearest("iter", keys), "iters");
  EXPECT_EQ(nearest("sead", keys), "seed");
  EXPECT_EQ(nearest("bandwidth", keys), "");
  EXPECT_EQ(nearest("xy", keys), "");  // as far from "lr" as that is long
}

TEST(Text, Units) {
  EXPECT_EQ(human_bytes(1'234), "1.2 kB");
  EXPECT_EQ(human_bytes(5'678'000), "5.7 MB");
  EXPECT_EQ(human_bytes(1'250'000'000), "1.25 GB");
  EXPECT_EQ(human_bytes(3'456'000'000'000), "3.46 TB");
  EXPECT_EQ(human_seconds(119.94), "119.9 s");
  EXPECT_EQ(human_seconds(120), "2 min");
  EXPECT_EQ(human_seconds(7560), "2.1 h");
}

}  // namespace
}  // namespace roundtable
