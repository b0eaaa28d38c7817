// The loop over the phases: what every phase is given by it.
#include "phases/phase.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <sstream>

#include "base/error.h"
#include "base/stop_signal.h"
#include "tests/mpi_main.h"
#include "tests/run/run_fixture.h"

namespace roundtable {
namespace {

using ::testing::ElementsAre;
using testing::RunFixture;
using testing::world;

// A run on all ranks, with its journal and events on rank 0.
class PhaseLoop : public ::testing::Test {
 protected:
  PhaseLoop() {
    if (world().rank() != 0) return;
    state_.emplace(run_.paths(), nlohmann::json(), run_.plan);
    events_.emplace(run_.paths().events());
  }

  void run_all(const std::vector<Phase>& phases) {
    RankContext ranks{.world = world(),
                      .grid = RankGrid(world(), 1),
                      .device = torch::kCPU,
                      .dtype = torch::kFloat32,
                      .device_group = nullptr};
    RunContext context{.ranks = std::move(ranks),
                       .config = run_.config,
                       .plan = run_.plan,
                       .paths = run_.paths(),
                       .boundaries = {},
                       .progress = progress_,
                       .state = state_ ? &*state_ : nullptr,
                       .events = events_ ? &*events_ : nullptr};
    run_phases(phases, context, meter_);
  }
  Phase phase(const std::string& name, std::function<bool()> is_done = {}) {
    return {name, std::move(is_done), [this, name] { ran_.push_back(name); }};
  }
  // "start a", "end a", ... on rank 0.
  std::vector<std::string> events() const {
    std::vector<std::string> lines;
    for (const TimedEvent& event : events_of_last_start(run_.paths().events())) {
      if (const auto* start = std::get_if<event::PhaseStart>(&event.event)) lines.push_back("start " + start->phase);
      if (const auto* end = std::get_if<event::Phase>(&event.event)) lines.push_back("end " + end->phase);
    }
    return lines;
  }

  RunFixture run_;
  std::ostringstream screen_;
  Progress progress_{screen_};
  std::optional<RunState> state_;
  std::optional<EventLog> events_;
  PhaseMeter meter_;
  std::vector<std::string> ran_;
};

TEST_F(PhaseLoop, RunsInOrderMeasuresAndLogs) {
  run_all({phase("a"), phase("b")});
  EXPECT_THAT(ran_, ElementsAre("a", "b"));
  EXPECT_EQ(meter_.seconds().size(), 2u);
  EXPECT_EQ(meter_.peak_bytes(world()).at("b").size(), static_cast<std::size_t>(world().size()));
  if (world().rank() == 0) {
    EXPECT_THAT(events(), ElementsAre("start a", "end a", "start b", "end b"));
  }
}

// Rank 0 alone knows what is done; all ranks skip it.
TEST_F(PhaseLoop, SkipsOnAllRanksWhatAnEarlierStartHasFinished) {
  const bool root = world().rank() == 0;
  run_all({phase("a", [root] { return root; }), phase("b", [] { return false; })});
  EXPECT_THAT(ran_, ElementsAre("b"));
  EXPECT_TRUE(meter_.seconds().contains("a")) << "the summary names every phase";
}

TEST_F(PhaseLoop, LeavesBetweenPhasesOnAllRanksWhenOneIsAskedTo) {
  listen_for_stop_signals();
  const Phase asks{"a", {}, [this] {
                     ran_.push_back("a");
                     if (world().rank() == 1) std::raise(SIGUSR1);
                   }};
  try {
    run_all({asks, phase("b")});
    ADD_FAILURE() << "the run went on";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::kStartAgain);
  }
  EXPECT_THAT(ran_, ElementsAre("a"));
}

}  // namespace
}  // namespace roundtable
