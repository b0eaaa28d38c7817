// An error is one line, whatever a file brought into it.
#include "base/error.h"

#include <gtest/gtest.h>

namespace roundtable {
namespace {

TEST(Error, StaysOnItsLine) {
  const Error error = bad_input("config.json: key 'a'", "'b\nerror: \x1b[2J' is not supported", "write\tc");
  EXPECT_STREQ(error.what(), "config.json: key 'a': 'b\\x0aerror: \\x1b[2J' is not supported; write\\x09c");
}

TEST(Error, LeavesOtherLettersAlone) {
  EXPECT_STREQ(machine_error("größe.h5", "fehlt").what(), "größe.h5: fehlt");
}

}  // namespace
}  // namespace roundtable
