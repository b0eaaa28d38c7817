// Jobs in one folder without locks: the living is seen, the dead is not in the way.
#include "rundir/at_work.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>

#include "base/error.h"
#include "tests/io/temporary_folder.h"

namespace roundtable {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using namespace std::chrono_literals;

constexpr AtWork::Timing kFast{5ms, 60ms};

// Runs `work` in a child; 0 where it returns, 2 where it is refused.
int code_in_a_child(const std::function<void()>& work) {
  const pid_t child = fork();
  if (child == 0) {
    try {
      work();
      _exit(0);
    } catch (const Error& error) {
      _exit(static_cast<int>(error.code()));
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(AtWork, LeavesNothingBehind) {
  const TemporaryFolder folder;
  {
    const AtWork job(folder.path(), "wait", kFast);
    EXPECT_THAT(folder.names(), ElementsAre(StartsWith(".at-work-")));
    EXPECT_TRUE(is_sign_of_work(folder.names().front()));
  }
  EXPECT_THAT(folder.names(), IsEmpty());
}

TEST(AtWork, ALivingJobIsSeenAndKeepsItsFile) {
  const TemporaryFolder folder;
  const AtWork job(folder.path(), "wait", kFast);
  const auto names = folder.names();
  EXPECT_EQ(code_in_a_child([&] { const AtWork other(folder.path(), "wait", kFast); }), 2);
  EXPECT_EQ(folder.names(), names);
}

TEST(AtWork, AJobThatDiedHereIsSeenAtOnce) {
  const TemporaryFolder folder;
  EXPECT_EQ(code_in_a_child([&] {
              const AtWork job(folder.path(), "wait", kFast);
              raise(SIGKILL);
            }),
            -1);
  ASSERT_EQ(folder.names().size(), 1u);
  const auto start = std::chrono::steady_clock::now();
  { const AtWork job(folder.path(), "wait", {5ms, 5s}); }
  EXPECT_LT(std::chrono::steady_clock::now() - start, 4s) << "the dead job was watched";
  EXPECT_THAT(folder.names(), IsEmpty());
}

TEST(AtWork, AFileOfAnotherMachineIsWatched) {
  const TemporaryFolder folder;
  folder.put(".at-work-node7-12", "another machine\n12\n00000000000000000003\n");
  { const AtWork job(folder.path(), "wait", kFast); }  // it does not change
  EXPECT_THAT(folder.names(), IsEmpty());
}

}  // namespace
}  // namespace roundtable
