// The first signal asks, a later one ends; the time limit asks too. Each in a process of its own: the state is one.
#include "base/stop_signal.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace roundtable {
namespace {

// The exit code of a child that runs `work`; 0 where it returns true, 1 where false.
int in_a_child(const std::function<bool()>& work) {
  const pid_t child = fork();
  if (child == 0) {
    listen_for_stop_signals();
    _exit(work() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(StopSignal, NothingAsks) {
  EXPECT_EQ(in_a_child([] { return stop_reason().empty(); }), 0);
}

TEST(StopSignal, TheFirstAsksAndItsEchoIsTheSameRequest) {
  EXPECT_EQ(in_a_child([] {
              raise(SIGUSR1);
              raise(SIGTERM);
              return stop_reason() == "SIGUSR1";
            }),
            0);
  EXPECT_EQ(in_a_child([] {
              raise(SIGTERM);
              return stop_reason() == "SIGTERM";
            }),
            0);
}

TEST(StopSignal, CtrlCAsksWhereACommandListens) {
  EXPECT_EQ(in_a_child([] {
              listen_for_ctrl_c();
              raise(SIGINT);
              return stop_reason() == "Ctrl-C";
            }),
            0);
  EXPECT_EQ(in_a_child([] {
              raise(SIGINT);  // ends the child
              return true;
            }),
            -1);
}

TEST(StopSignal, TheFirstPrintsTheNoticeAtOnceAndTheSecondDoesNot) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_EQ(in_a_child([&] {
              dup2(ends[1], STDERR_FILENO);
              listen_for_ctrl_c();
              set_stop_notice("info: it stops");
              raise(SIGINT);
              raise(SIGINT);
              return stop_reason() == "Ctrl-C";
            }),
            0);
  close(ends[1]);
  char text[64] = "";
  EXPECT_EQ(read(ends[0], text, sizeof text), 15);
  EXPECT_STREQ(text, "info: it stops\n");
  close(ends[0]);
}

TEST(StopSignal, ALaterOneEndsTheProcess) {
  EXPECT_EQ(in_a_child([] {
              raise(SIGUSR1);
              usleep(1200000);
              raise(SIGUSR1);
              return true;
            }),
            75);
}

TEST(StopSignal, TheTimeAsks) {
  EXPECT_EQ(in_a_child([] {
              leave_after(0.05);
              const bool early = stop_reason().empty();
              usleep(100000);
              return early && stop_reason() == "run.max_time";
            }),
            0);
}

}  // namespace
}  // namespace roundtable
