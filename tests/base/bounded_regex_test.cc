// Regular expressions within their bounds, and hostile ones.
#include "base/bounded_regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace roundtable {
namespace {

bool finds(const std::string& text, const std::string& subject) {
  return std::regex_search(subject, *bounded_regex(text, "here"));
}

std::string repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

std::string refusal(const std::string& text) {
  try {
    bounded_regex(text, "here");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    return error.what();
  }
  return "";
}

TEST(BoundedRegex, FindsWithEitherMatcher) {
  const std::string layer = "model.layers.11.mlp.down_proj";
  EXPECT_TRUE(finds("layers\\.\\d{1,2}\\..*(down|up)_proj$", layer));
  EXPECT_FALSE(finds("layers\\.\\d{3,}\\.", layer));
  EXPECT_TRUE(finds("^(\\w+\\.)+down_proj$", layer));  // a repeated part: the polynomial one
  EXPECT_FALSE(finds("^(\\w+\\.){3}down_proj$", layer));
  EXPECT_TRUE(finds("^(?:[a-z]+|\\d+|[._])*$", layer));
  EXPECT_THROW(bounded_regex("a(", "here"), std::regex_error);
}

TEST(BoundedRegex, RefusesWhatWouldOverflowTheStack) {
  EXPECT_EQ(refusal(std::string(4097, '(')),
            "here: is a regular expression of more than 4096 letters, counts written out; make it shorter, and counts "
            "such as {9} smaller");
  EXPECT_THAT(refusal("(?:a?){600}"), testing::StartsWith("here: "));
  EXPECT_THAT(refusal("((a{0,50}){50,}){50}"), testing::StartsWith("here: "));
  EXPECT_THAT(refusal("a{99999999999999999999999}"), testing::StartsWith("here: "));
  EXPECT_EQ(refusal("(?:a?){300}"), "");
}

TEST(BoundedRegex, WhatItTakesFitsTheStack) {
  EXPECT_TRUE(finds(repeated("(", 2000) + "a" + repeated(")", 2000), "a"));
  EXPECT_TRUE(finds(repeated("^", 4000) + "a", "a"));
  // Each of 400 repetitions goes through all that it holds once more: 240 MB, if by backtracking.
  EXPECT_TRUE(finds(repeated("(?:", 400) + repeated("x?", 1000) + repeated(")+", 400), std::string(100, 'y')));
}

}  // namespace
}  // namespace roundtable
