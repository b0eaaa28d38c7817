// An error is one line, whatever a file brought into it.
#include "base/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <string>

namespace roundtable {
namespace {

TEST(Error, StaysOnItsLine) {
  const Error error = bad_input("config.json: key 'a'", "'b\nerror: \x1b[2J' is not supported", "write\tc");
  EXPECT_STREQ(error.what(), "config.json: key 'a': 'b\\x0aerror: \\x1b[2J' is not supported; write\\x09c");
}

TEST(Error, LeavesOtherLettersAlone) { EXPECT_STREQ(machine_error("größe.h5", "fehlt").what(), "größe.h5: fehlt"); }

TEST(Error, OfASystemCallSaysWhatToDo) {
  const Error full = call_error("a.h5", "cannot be written", ENOSPC);
  EXPECT_STREQ(full.what(),
               "a.h5: cannot be written: No space left on device; free some space there and run the same "
               "command again");
  EXPECT_EQ(full.code(), ExitCode::kMachine);
  const Error missing = call_error("/data/a.h5", "cannot be opened", ENOENT);
  EXPECT_STREQ(missing.what(), "/data/a.h5: cannot be opened: No such file or directory; check the path");
  EXPECT_EQ(missing.code(), ExitCode::kBadInput);
  EXPECT_STREQ(call_error("a.h5", "cannot be read", EIO).what(), "a.h5: cannot be read: Input/output error");
}

TEST(Error, OfARelativePathSaysWhereItWasSearched) {
  const std::string folder = std::filesystem::current_path().string();
  EXPECT_EQ(call_error("m/a.h5", "cannot be opened", ENOENT).what(),
            "m/a.h5: cannot be opened: No such file or directory; check the path (it is relative to " + folder + ")");
  EXPECT_EQ(call_error("m/a.h5", "cannot be opened", EACCES).what(),
            std::string("m/a.h5: cannot be opened: Permission denied; check the permissions, or choose another path"));
}

TEST(Check, NamesOurBug) {
  EXPECT_THROW(RT_CHECK(1 + 1 == 3), std::logic_error);
  try {
    RT_UNREACHABLE("a type without a name");
  } catch (const std::logic_error& error) {
    EXPECT_TRUE(std::string(error.what()).ends_with(": a type without a name")) << error.what();
  }
}

}  // namespace
}  // namespace roundtable
