// What rank 0 concludes from signs of life, and that the signs of all ranks reach it. That a fault ends all ranks is
// tests/e2e/fault_test.py's to show: it ends the test program, too.
#include "comm/watchdog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "base/activity.h"
#include "base/clock.h"
#include "comm/link_check.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using testing::world;

constexpr double kNow = 1000, kLimit = 60;

LaneSign works(double idle, const char* name = "") { return {name, idle, ""}; }
LaneSign waits(double idle, const char* call) { return {"", idle, call}; }

SignOfLife sign(std::vector<LaneSign> lanes, double age = 1) {
  return {.host = "node", .phase = "tune", .block = 7, .lanes = std::move(lanes), .heard = kNow - age};
}

std::string fault(const std::vector<SignOfLife>& ranks) { return find_fault(ranks, kNow, kLimit).value_or("none"); }

TEST(FindFault, RanksThatWorkOrWaitForThoseAreWell) {
  EXPECT_EQ(fault({sign({works(59)}), sign({waits(500, "MPI_Ibcast")}), sign({works(0)}, 59)}), "none");
  EXPECT_EQ(fault({sign({waits(61, "MPI_Ibcast"), works(3, "reader")}), sign({waits(500, "MPI_Ibcast")})}), "none");
  EXPECT_EQ(fault({sign({}), sign({})}), "none");  // no thread is watched yet
}

TEST(FindFault, ASilentRank) {
  // What it last did says nothing by now.
  EXPECT_THAT(fault({sign({works(0)}), sign({works(99)}, 61), sign({works(99)}, 62)}),
              StartsWith("rank 1 on node, tune, block 7: no sign of life for 61 s (run.time_limit)"));
}

TEST(FindFault, AThreadThatHangs) {
  EXPECT_THAT(fault({sign({works(0)}), sign({works(61)})}),
              StartsWith("rank 1 on node, tune, block 7: hangs: no step for 61 s (run.time_limit)"));
  EXPECT_THAT(fault({sign({waits(500, "a message"), works(61, "coordinator")}), sign({waits(61, "MPI_Ibcast")})}),
              StartsWith("rank 0 on node, tune, block 7: its coordinator hangs: no step for 61 s"));
}

TEST(FindFault, RanksThatAllWaitForEachOther) {
  EXPECT_THAT(fault({sign({waits(61, "MPI_Ibarrier")}), sign({waits(500, "MPI_Ibcast")})}),
              AllOf(StartsWith("rank 0 on node, tune, block 7: all ranks have waited for each other for 61 s"),
                    HasSubstr("rank 0 in MPI_Ibarrier, rank 1 in MPI_Ibcast;")));
  EXPECT_EQ(fault({sign({waits(59, "MPI_Ibarrier")}), sign({waits(500, "MPI_Ibcast")})}), "none");
}

TEST(FindFault, RanksThatHaveLeftDoNotCount) {
  SignOfLife left = sign({works(500)}, 500);
  left.left = true;
  EXPECT_EQ(fault({sign({works(1)}), left}), "none");
  EXPECT_THAT(fault({sign({waits(61, "MPI_Ibarrier")}), left}), HasSubstr("all ranks have waited for each other"));
}

TEST(LinkCheck, IsAskedAsLongAsItLives) {
  EXPECT_EQ(LinkCheck::find_fault(), std::nullopt);
  std::optional<std::string> state;
  const LinkCheck one([&] { return state; });
  EXPECT_EQ(LinkCheck::find_fault(), std::nullopt);
  {
    const LinkCheck other([]() -> std::optional<std::string> { throw std::runtime_error("the look itself failed"); });
    EXPECT_EQ(LinkCheck::find_fault(), "the look itself failed");
    state = "a link is down";
    EXPECT_EQ(LinkCheck::find_fault(), "a link is down");
  }
  state.reset();
  EXPECT_EQ(LinkCheck::find_fault(), std::nullopt);
}

TEST(FindFault, ARankThatHasNoPhaseYetPlans) {
  SignOfLife young;
  young.host = "node";
  EXPECT_THAT(fault({young}), StartsWith("rank 0 on node, plan: no sign of life"));
}

// Waits until `done`, and fails after a time in which hundreds of signs would have come.
void wait_for(const std::function<bool()>& done) {
  for (const Stopwatch watch; !done();) {
    ASSERT_LT(watch.seconds(), 60);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

TEST(Watchdog, TellsRankZeroWhatEveryRankDoes) {
  const int rank = world().rank();
  const WatchedThread watched(Lane::kMain);
  Watchdog watchdog(world());
  watchdog.set_time_limit(1000);
  for (const std::int64_t first : {100, 200}) {  // the second time it is the next signs that come
    enter_phase("phase " + std::to_string(first));
    enter_block(first + rank);
    const char* const call = first == 100 ? "the first call" : "the second call";
    const WaitsForOthers waits(call);
    if (rank == 0) {
      wait_for([&] {
        const std::vector<SignOfLife> signs = watchdog.signs();
        bool all = std::ssize(signs) == world().size();
        for (std::size_t i = 0; all && i < signs.size(); ++i) {
          all = signs[i].phase == "phase " + std::to_string(first) && signs[i].host == host_name() && !signs[i].left &&
                signs[i].block == first + static_cast<std::int64_t>(i) && signs[i].lanes.size() == 1 &&
                (signs[i].waiting_in() == call || signs[i].waiting_in() == "MPI_Ibarrier");
        }
        return all;
      });
    }
    world().barrier();
  }
  enter_phase("");
}

}  // namespace
}  // namespace roundtable
