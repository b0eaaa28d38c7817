// EXPECT_ERROR(statement, code, matcher): the statement throws an Error of that code, and its text, which is one line,
// matches.
#pragma once

#include <gmock/gmock.h>

#include "base/error.h"

#define EXPECT_ERROR(statement, expected_code, matcher)                      \
  do {                                                                       \
    try {                                                                    \
      statement;                                                             \
      ADD_FAILURE() << "nothing was thrown by " #statement;                  \
    } catch (const ::roundtable::Error& error) {                             \
      EXPECT_EQ(error.code(), expected_code) << error.what();                \
      EXPECT_THAT(error.what(), matcher);                                    \
      EXPECT_THAT(error.what(), ::testing::Not(::testing::HasSubstr("\n"))); \
    }                                                                        \
  } while (false)

#define EXPECT_BAD_INPUT(statement, matcher) EXPECT_ERROR(statement, ::roundtable::ExitCode::kBadInput, matcher)
