// The state of a run from files made by hand: what each kind of end and of work looks like.
#include "commands/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "rundir/events.h"
#include "rundir/journal.h"
#include "rundir/rank_status.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// A run of six blocks in three stages.
class Status : public ::testing::Test {
 protected:
  static record::Block block(std::int64_t index, double seconds = 10) {
    record::Block block;
    block.stage = index / 2;
    block.block = index;
    block.first_loss = 2;
    block.best_loss = 1 + 0.1 * static_cast<double>(index);
    block.seconds = seconds;
    return block;
  }

  Journal& journal() {
    if (!journal_) {
      journal_.emplace(directory_ + "/journal");
      if (journal_->records().empty()) journal_->append(record::Run{"1", {}, {{0, 2}, {2, 4}, {4, 6}}, "models/out"});
    }
    return *journal_;
  }
  // The job is gone: nobody holds the journal.
  void end_job() { journal_.reset(); }

  void log(double time, const Event& event) {
    EventLog(directory_ + "/events.jsonl", [time] { return time; }).append(event);
  }
  void start(double time, bool locked = true) {
    event::Start start;
    start.locked = locked;
    log(time, start);
  }

  RunStatus status(double now = 1000) const { return read_status(directory_, now); }
  std::string words(double now = 1000) const { return describe_status(status(now)); }

  TemporaryFolder folder_;
  std::string directory_ = folder_.path();
  std::optional<Journal> journal_;
};

TEST_F(Status, OfAJobThatTunes) {
  start(100);
  log(110, event::PhaseStart{"tune"});
  log(110, event::StageStart{0, 0});
  log(110, event::StageStart{1, 1});
  for (const std::int64_t index : {0, 1, 2}) {
    journal().append(block(index));
    log(120, event::Block{index / 2, block(index), {}});
  }
  log(121, event::StageEnd{0});
  write_rank_status(directory_ + "/ranks.json",
                    {990, {{"node1", "tune", 3, 1, 0, "", 2'000'000, 3'000'000'000},
                           {"node2", "tune", 4, 2, 30, "MPI_Iallreduce"}}});

  const RunStatus status = this->status();
  EXPECT_EQ(status.state, "at work");
  EXPECT_EQ(status.output, "models/out");
  EXPECT_EQ(status.phase, "tune");
  EXPECT_EQ(status.phase_seconds, 890);
  EXPECT_EQ(status.blocks.done, 3);
  EXPECT_EQ(status.blocks.all, 6);
  ASSERT_EQ(status.stages.size(), 3u);
  EXPECT_EQ(status.stages[0].state, "done");
  EXPECT_EQ(status.stages[1].state, "running");
  EXPECT_EQ(status.stages[1].group, 1);
  EXPECT_EQ(status.stages[1].done, 1);
  EXPECT_EQ(status.stages[2].state, "waiting");
  EXPECT_EQ(status.seconds_left, 3 * 10 / 2.0);  // three blocks left of 10 s each, two groups
  ASSERT_EQ(status.ranks.size(), 2u);
  EXPECT_EQ(status.ranks[1].seconds_ago, 12);

  const std::string words = describe_status(status);
  EXPECT_THAT(words, HasSubstr("state    at work\n"));
  EXPECT_THAT(words, HasSubstr("phase    tune, for 0:14:50, about 0:00:15 left\n"));
  EXPECT_THAT(words, HasSubstr("blocks   3 of 6 done\n"));
  EXPECT_THAT(words, HasSubstr("stages   1 done, 1 running, 1 waiting\n  stage 1  group 1  1 of 2 blocks done\n"));
  EXPECT_THAT(words,
              HasSubstr("45.0 % lower than before the first step, as the mean of 3 blocks; least in block 2: 40.0 %"));
  EXPECT_THAT(words, HasSubstr("ranks    2, last heard of 11 to 12 s ago\n"));
  EXPECT_THAT(words, HasSubstr("  block 3  peak 2.0 MB, 3.00 GB of its device\n"));
  EXPECT_THAT(words, HasSubstr("rank 1 on node2  12 s ago  block 4  waits in MPI_Iallreduce for 30 s\n"));
}

TEST_F(Status, OfAJobThatWasKilled) {
  start(100);
  log(110, event::PhaseStart{"calibrate"});
  journal();
  end_job();
  const RunStatus status = this->status();
  EXPECT_EQ(status.state, "interrupted");
  EXPECT_EQ(status.phase, "calibrate");
  EXPECT_FALSE(status.phase_seconds);
  EXPECT_FALSE(status.seconds_left);
  EXPECT_THAT(words(), HasSubstr("interrupted; run the same command again: it resumes\n"));
}

TEST_F(Status, OfAJobThatLeftAndOfOneThatFinished) {
  start(100);
  log(110, event::PhaseStart{"tune"});
  log(120, event::Leave{"SIGUSR1", "tune", 1});
  journal().append(block(0));
  end_job();
  EXPECT_EQ(status().state, "stopped early");
  EXPECT_THAT(words(), HasSubstr("run the same command again"));

  journal().append(record::Summary{});
  end_job();
  EXPECT_EQ(status().state, "finished");
  EXPECT_THAT(words(), Not(HasSubstr("again")));
}

TEST_F(Status, CountsTheLastStartOnly) {
  start(100);
  log(110, event::PhaseStart{"tune"});
  log(110, event::StageStart{2, 0});
  log(120, event::Block{0, block(4, 1000), {}});
  journal().append(block(4, 1000));
  start(200);
  EXPECT_FALSE(status().phase);
  log(210, event::PhaseStart{"tune"});
  log(210, event::StageStart{0, 0});
  EXPECT_FALSE(status().seconds_left) << "no block of this start is done";
  EXPECT_EQ(status().stages[2].state, "waiting");
  EXPECT_EQ(status().stages[0].state, "running");
}

// Where the file system has no locks, signs of life tell.
TEST_F(Status, WithoutLocksARunIsAtWorkWhileItsRanksGiveSigns) {
  journal();
  end_job();
  start(100, /*locked=*/false);
  write_rank_status(directory_ + "/ranks.json", {995, {{"node1", "tune", 0, 0, 0, ""}}});
  EXPECT_EQ(status(1000).state, "at work");
  EXPECT_EQ(status(1100).state, "interrupted");
  log(996, event::Leave{"SIGTERM", "tune", 0});
  EXPECT_EQ(status(1000).state, "stopped early");
}

TEST_F(Status, IsFoundByTheNameOfTheOutputAndNowhereElse) {
  const std::string out = folder_.path() + "/out";
  std::filesystem::create_directories(out + ".run");
  Journal(out + ".run/journal").append(record::Run{"1", {}, {{0, 2}}, out});
  EXPECT_EQ(read_status(out, 0).directory, out + ".run");
  EXPECT_BAD_INPUT(read_status(folder_.path() + "/elsewhere", 0), HasSubstr("no run is here"));
}

TEST_F(Status, OfAnotherVersionIsRefusedByName) {
  journal();
  end_job();
  folder_.put("events.jsonl", R"({"time": 1, "event": "start", "version": "9.9"})"
                              "\n");
  EXPECT_BAD_INPUT(status(), AllOf(HasSubstr("events.jsonl"), HasSubstr("9.9")));
}

}  // namespace
}  // namespace roundtable
