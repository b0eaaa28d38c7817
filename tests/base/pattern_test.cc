// Regular expressions within their bounds, and hostile ones.
#include "base/pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>

namespace roundtable {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

bool finds(const std::string& text, const std::string& subject) { return Pattern(text, "here").is_in(subject); }

std::string repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

std::string refusal(const std::string& text) {
  try {
    Pattern(text, "here");
  } catch (const NotAPattern& error) {
    return std::string("no pattern, ") + error.what();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    return error.what();
  }
  return "";
}

TEST(Pattern, IsFoundAnywhere) {
  const std::string layer = "model.layers.11.mlp.down_proj";
  EXPECT_TRUE(finds("layers\\.\\d{1,2}\\..*(down|up)_proj$", layer));
  EXPECT_FALSE(finds("layers\\.\\d{3,}\\.", layer));
  EXPECT_TRUE(finds("^(\\w+\\.)+down_proj$", layer));
  EXPECT_FALSE(finds("^(\\w+\\.){3}down_proj$", layer));
  EXPECT_TRUE(finds("^(?:[a-z]+|\\d+|[._])*$", layer));
}

// What Python's re has and ECMAScript has not.
TEST(Pattern, ReadsWhatPythonReads) {
  EXPECT_TRUE(finds("(?<!up_)proj", "down_proj"));
  EXPECT_FALSE(finds("(?<!up_)proj", "up_proj"));
  EXPECT_TRUE(finds("^(?!.*lm_head).*", "model.layers.1"));
  EXPECT_FALSE(finds("^(?!.*lm_head).*", "lm_head"));
  EXPECT_TRUE(finds("(?P<kind>up|down)_(?P=kind)", "down_down"));
  EXPECT_TRUE(finds("(?i)DOWN", "down_proj"));
  EXPECT_TRUE(finds("a{", "a{"));
}

TEST(Pattern, WhatIsNoneIsNamed) {
  EXPECT_EQ(refusal("a("), "no pattern, here: is not a regular expression: missing closing parenthesis (byte 3)");
  EXPECT_THAT(refusal("[a"), StartsWith("no pattern, "));
  EXPECT_THAT(refusal("(*UTF)a"), StartsWith("no pattern, "));
}

TEST(Pattern, WhatIsTooLargeIsRefused) {
  EXPECT_EQ(refusal(std::string(4097, 'a')),
            "here: is too large a regular expression: pattern string is longer than the limit set by the application; "
            "make it shorter, and counts such as {9} smaller");
  const std::string too_large = "here: is too large a regular expression: ";
  EXPECT_EQ(refusal(std::string(4096, 'a')), "");
  EXPECT_THAT(refusal(repeated("(", 2000) + "a" + repeated(")", 2000)), StartsWith(too_large));
  EXPECT_THAT(refusal("(a?){9999}"), StartsWith(too_large));
  EXPECT_THAT(refusal("((a{0,50}){50,}){500}"), StartsWith(too_large));
  EXPECT_THAT(refusal("a{99999999999999999999999}"), StartsWith(too_large));
}

// Runs `body` on a stack of 256 kB.
void on_a_small_stack(void* (*body)(void*)) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 256 << 10), 0);
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, body, nullptr), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
}

TEST(Pattern, WhatIsTakenNeedsLittleOfTheStack) {
  on_a_small_stack([](void*) -> void* {
    EXPECT_TRUE(finds(repeated("(", 250) + "a" + repeated(")", 250), "a"));
    EXPECT_TRUE(finds(repeated("^", 4000) + "a", "a"));
    EXPECT_TRUE(finds("(?:a?){600}", "a"));
    EXPECT_TRUE(finds(repeated("(?:", 200) + repeated("x?", 1000) + repeated(")+", 200), std::string(100, 'y')));
    EXPECT_TRUE(finds("^(a|b)*$", repeated("ab", 10000)));
    return nullptr;
  });
}

TEST(Pattern, WhatTakesTooManyStepsIsRefused) {
  try {
    finds("^(a+)+$", std::string(40, 'a') + "b");
    FAIL() << "it was matched";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_THAT(error.what(), StartsWith("here: cannot be matched with 'aaaa"));
    EXPECT_THAT(error.what(), HasSubstr("match limit exceeded; make it simpler"));
  }
}

}  // namespace
}  // namespace roundtable
