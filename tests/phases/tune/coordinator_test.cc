// The coordinator's answers to workers, over real messages; and messages that nobody knows.
#include "phases/tune/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "tests/mpi_main.h"
#include "tests/run/run_fixture.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::RunFixture;
using testing::world;

std::string fault_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "";
}

TEST(Messages, ComeBackAsTheyWereSent) {
  message::BlockDone sent;
  sent.record.block = 7;
  sent.record.experts_without_tokens = {"mlp.experts.1"};
  sent.curves.losses = {0.5f, 0.25f};
  sent.curves.layer_errors["q"] = {0.1, 0.05};
  sent.curves.reduction = ReductionTimes{100, 2, 1};
  const auto read = std::get<message::BlockDone>(to_coordinator_from(to_text(ToCoordinator(sent))));
  EXPECT_EQ(read.record.block, 7);
  EXPECT_EQ(read.record.experts_without_tokens, sent.record.experts_without_tokens);
  EXPECT_EQ(read.curves.losses, sent.curves.losses);
  EXPECT_EQ(read.curves.layer_errors.at("q").tuned, 0.05);
  EXPECT_EQ(read.curves.reduction->bytes, 100);
  const auto order = std::get<message::TuneStage>(to_worker_from(to_text(ToWorker(message::TuneStage{3, 1}))));
  EXPECT_EQ(order.stage, 3);
  EXPECT_EQ(order.finished, 1);
}

TEST(Messages, AnUnknownOneIsAFaultThatNamesIt) {
  EXPECT_THAT(fault_of([] { to_coordinator_from(R"({"type": "teapot"})"); }),
              AllOf(HasSubstr("the coordinator"), HasSubstr("unknown kind"), HasSubstr("teapot")));
  EXPECT_THAT(fault_of([] { to_worker_from(to_text(ToCoordinator(message::Ready{}))); }),
              AllOf(HasSubstr("a worker"), HasSubstr("ready")));
  EXPECT_THAT(fault_of([] { to_coordinator_from(R"({"type": "stage_done"})"); }), HasSubstr("'stage' is missing"));
  EXPECT_THAT(fault_of([] { to_coordinator_from("no JSON"); }), HasSubstr("no JSON"));
}

// One rank that is worker and coordinator: what a worker would send is sent before serve().
class CoordinatorTest : public ::testing::Test {
 protected:
  void send(const ToCoordinator& message) { tell_coordinator(mailbox_, message); }
  void open_state() { state_.emplace(run_.paths(), nlohmann::json(), run_.plan); }
  void serve() {
    if (!state_) open_state();
    EventLog events(run_.paths().events());
    Progress progress(screen_);
    Coordinator(run_.plan, run_.paths(), keep_boundaries_, *state_, mailbox_, events, progress).serve();
  }
  ToWorker order() { return to_worker_from(mailbox_.look(MailTo::kWorker).value().text); }
  std::vector<TimedEvent> events() const { return events_of_last_start(run_.paths().events()); }

  RunFixture run_{{{0, 1}, {1, 4}}};
  MpiCommunicator alone_{MPI_COMM_SELF};
  Mailbox mailbox_{alone_};
  std::ostringstream screen_;
  bool keep_boundaries_ = false;
  std::optional<RunState> state_;
};

TEST_F(CoordinatorTest, HandsOutTheLongestStageFirstAndRecordsWhatIsDone) {
  message::BlockDone done;
  done.record = {.stage = 1,
                 .block = 1,
                 .files = {{"f", "d", 9}},
                 .first_loss = 2,
                 .best_loss = 1,
                 .best_iteration = 3,
                 .seconds = 4,
                 .save_seconds = 5,
                 .experts_without_tokens = {"experts.0"},
                 .experts_with_few_tokens = FewTokens{.least = 64, .experts = 8, .in_calibration = 5,
                                                      .tokens_added = 210, .left = 1, .in_tuning = 4}};
  done.curves.losses = {2, 1};
  open_state();
  run_.folder.put("out.run/boundary-00001.h5", "states");
  run_.folder.put("out.run/boundary-00000.h5", "states");
  send(message::Ready{});
  send(message::Progress{1, 1, 10, 20, 2, 1});
  send(done);
  send(message::StageDone{1});
  send(message::Ready{});
  send(message::Ready{});  // nothing is left
  serve();

  EXPECT_EQ(std::get<message::TuneStage>(order()).stage, 1);
  EXPECT_EQ(std::get<message::TuneStage>(order()).stage, 0);
  EXPECT_TRUE(std::holds_alternative<message::End>(order()));
  const auto* record = state_->journal().last<record::Block>();
  ASSERT_NE(record, nullptr);
  EXPECT_EQ(to_json(*record), to_json(done.record));
  EXPECT_FALSE(std::filesystem::exists(run_.paths().boundary(1))) << "of the stage that is done";
  EXPECT_TRUE(std::filesystem::exists(run_.paths().boundary(0)));
  EXPECT_THAT(screen_.str(), HasSubstr("experts.0"));
  EXPECT_THAT(screen_.str(),
              HasSubstr("block 1: 5 of 8 experts saw fewer than 64 tokens in calibration; the search of scales showed them "
                        "210 others, which is not enough for 1 of them; 4 saw fewer in the steps of tuning\n"));

  const std::vector<TimedEvent> log = events();
  ASSERT_EQ(log.size(), 4u);
  EXPECT_EQ(std::get<event::StageStart>(log[0].event).stage, 1);
  EXPECT_EQ(std::get<event::Block>(log[1].event).curves.losses, done.curves.losses);
  EXPECT_EQ(std::get<event::StageEnd>(log[2].event).stage, 1);
  EXPECT_EQ(std::get<event::StageStart>(log[3].event).stage, 0);
}

TEST_F(CoordinatorTest, TellsAWorkerHowManyBlocksAreDone) {
  run_.plan.stages = {{0, 2}, {2, 4}};
  {
    RunState before(run_.paths(), nlohmann::json(), run_.plan);
    before.journal().append(run_.block(2, "content"));
  }
  for (int i = 0; i < 3; ++i) send(message::Ready{});
  serve();
  const auto first = std::get<message::TuneStage>(order());
  const auto second = std::get<message::TuneStage>(order());
  EXPECT_EQ(first.stage, 0);
  EXPECT_EQ(first.finished, 0);
  EXPECT_EQ(second.stage, 1);
  EXPECT_EQ(second.finished, 1);
}

TEST_F(CoordinatorTest, KeepsBoundariesThatAreToBeKept) {
  keep_boundaries_ = true;
  open_state();
  run_.folder.put("out.run/boundary-00001.h5", "states");
  send(message::Ready{});
  send(message::StageDone{1});
  send(message::Stop{});
  serve();
  EXPECT_TRUE(std::filesystem::exists(run_.paths().boundary(1)));
}

TEST_F(CoordinatorTest, AnUnknownMessageDoesNotCountAsStop) {
  mailbox_.send(0, MailTo::kCoordinator, R"({"type": "stopp"})");
  send(message::Stop{});
  EXPECT_THAT(fault_of([&] { serve(); }), HasSubstr("stopp"));
}

TEST_F(CoordinatorTest, HandsOutNothingOnceAGroupHasLeft) {
  run_.plan.groups = 2;
  send(message::Left{});
  send(message::Ready{});
  serve();
  EXPECT_TRUE(std::holds_alternative<message::End>(order()));
}

// Rank 0 leaves while rank 1 tunes: rank 1 is told.
TEST(Coordinator, TellsTheOtherGroupsWhenOneLeaves) {
  ASSERT_EQ(world().size(), 2) << "this program runs on two ranks";
  Mailbox mailbox(world());
  if (world().rank() == 1) {
    tell_coordinator(mailbox, message::Ready{});
    EXPECT_TRUE(std::holds_alternative<message::TuneStage>(to_worker_from(mailbox.receive(MailTo::kWorker).text)));
    EXPECT_FALSE(was_told_to_leave(mailbox));
    world().barrier();
    bool told = false;
    for (int i = 0; i < 10000 && !told; ++i) {
      told = was_told_to_leave(mailbox);
      if (!told) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_TRUE(told);
    tell_coordinator(mailbox, message::Left{});
    return;
  }
  RunFixture run({{0, 1}, {1, 4}}, 2);
  RunState state(run.paths(), nlohmann::json(), run.plan);
  EventLog events(run.paths().events());
  std::ostringstream screen;
  Progress progress(screen);
  Coordinator coordinator(run.plan, run.paths(), false, state, mailbox, events, progress);
  std::thread thread =
      start_coordinator(coordinator, [](std::exception_ptr) { ADD_FAILURE() << "the coordinator failed"; });
  world().barrier();
  tell_coordinator(mailbox, message::Left{});
  thread.join();
}

}  // namespace
}  // namespace roundtable
