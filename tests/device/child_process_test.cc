// Another program: what it is given, what comes back, and its end.
#include "device/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <stdexcept>

#include "base/error.h"

namespace roundtable {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;

struct Told {
  ChildResult result;
  std::vector<std::string> lines;
};

Told run_shell(const std::string& script, const std::vector<std::string>& extra = {}) {
  Told told;
  told.result = run_child(
      {"sh", "-c", script}, extra, [&](const std::string& line) { told.lines.push_back(line); }, [] {});
  return told;
}

TEST(ChildProcess, LinesErrorsAndTheCodeComeBack) {
  const Told told = run_shell("echo one; echo wrong >&2; echo; printf last; exit 7");
  EXPECT_THAT(told.lines, ElementsAre("one", "", "last"));
  EXPECT_EQ(told.result.error, "wrong\n");
  EXPECT_EQ(told.result.exit_code, 7);
  EXPECT_EQ(run_shell("exit 0").result.exit_code, 0);
}

TEST(ChildProcess, ASignalIsACode) { EXPECT_EQ(run_shell("kill -9 $$").result.exit_code, 128 + SIGKILL); }

TEST(ChildProcess, VariablesAreOursAndTheExtraOnes) {
  setenv("ROUNDTABLE_TEST_A", "ours", 1);
  setenv("ROUNDTABLE_TEST_B", "ours", 1);
  const Told told =
      run_shell("echo $ROUNDTABLE_TEST_A $ROUNDTABLE_TEST_B $ROUNDTABLE_TEST_C; env | grep -c ROUNDTABLE_TEST_B=",
                {"ROUNDTABLE_TEST_B=another", "ROUNDTABLE_TEST_C=new"});
  EXPECT_THAT(told.lines, ElementsAre("ours another new", "1"));
  unsetenv("ROUNDTABLE_TEST_A");
  unsetenv("ROUNDTABLE_TEST_B");
}

TEST(ChildProcess, ReadsNothingOfOurInput) { EXPECT_THAT(run_shell("cat; echo end").lines, ElementsAre("end")); }

// More than a pipe holds, on both; of errors the end is kept.
TEST(ChildProcess, MuchOutputIsTaken) {
  const Told told = run_shell("seq 1 30000; seq 1 100000 >&2; echo the end >&2");
  ASSERT_EQ(told.lines.size(), 30000U);
  EXPECT_EQ(told.lines.back(), "30000");
  EXPECT_GE(told.result.error.size(), 64U << 10);
  EXPECT_LE(told.result.error.size(), 128U << 10);
  EXPECT_THAT(told.result.error, EndsWith("100000\nthe end\n"));
}

TEST(ChildProcess, OneThatCannotBeStartedIsTheMachines) {
  try {
    run_child(
        {"/nowhere/at all"}, {}, [](const std::string&) {}, [] {});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kMachine);
    EXPECT_THAT(error.what(), HasSubstr("/nowhere/at all: cannot be started: No such file"));
  }
}

TEST(ChildProcess, AnExceptionOfOursEndsIt) {
  pid_t child = 0;
  const auto note = [&](const std::string& line) { child = std::stoi(line); };
  const auto leave = [&] {
    if (child != 0) throw std::runtime_error("leave");
  };
  EXPECT_THROW(run_child({"sh", "-c", "echo $$; exec sleep 600"}, {}, note, leave), std::runtime_error);
  EXPECT_NE(child, 0);
  EXPECT_EQ(kill(child, 0), -1) << "it is still there";
}

}  // namespace
}  // namespace roundtable
