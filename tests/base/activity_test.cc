// What a process says of itself, and for how long a thread has made no step.
#include "base/activity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace roundtable {
namespace {

using testing::EndsWith;
using testing::StartsWith;

void pass(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

TEST(Activity, Where) {
  set_rank(3);
  enter_phase("");
  EXPECT_EQ(located("line"), "line");
  EXPECT_EQ(where(), "rank 3 on " + host_name() + ", plan");
  enter_phase("tune");
  enter_block(12);
  EXPECT_EQ(located("line"), "rank 3 on " + host_name() + ", tune, block 12: line");
  std::thread([] {
    const WatchedThread watched(Lane::kCoordinator);
    EXPECT_THAT(where(), StartsWith("the coordinator, rank 3 on "));
    EXPECT_THAT(where(), EndsWith(", tune"));
  }).join();
  enter_phase("prove");
  EXPECT_THAT(where(), EndsWith(", prove"));
}

TEST(Activity, IdleSecondsAreTheThreadsOwn) {
  EXPECT_FALSE(activity(Lane::kMain).watched);
  const WatchedThread watched(Lane::kMain);
  EXPECT_TRUE(activity(Lane::kMain).watched);
  pass(60);
  std::thread(note_progress).join();  // an unwatched thread's steps are not ours
  EXPECT_GE(activity(Lane::kMain).idle_seconds, 0.06);
  note_progress();
  EXPECT_LT(activity(Lane::kMain).idle_seconds, 0.05);
}

TEST(Activity, WaitingNests) {
  const WatchedThread watched(Lane::kMain);
  EXPECT_EQ(activity(Lane::kMain).waiting_in, "");
  {
    const WaitsForOthers outer("outer");
    {
      const WaitsForOthers inner("inner");
      EXPECT_EQ(activity(Lane::kMain).waiting_in, "inner");
    }
    EXPECT_EQ(activity(Lane::kMain).waiting_in, "outer");
  }
  EXPECT_EQ(activity(Lane::kMain).waiting_in, "");
}

}  // namespace
}  // namespace roundtable
