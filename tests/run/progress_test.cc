// The progress display on a small model of a terminal and as plain lines.
#include "run/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <sstream>

#include "base/error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// As much of a terminal as the display uses: printing, wrapping, scrolling, and erasing. Everything else fails.
class Terminal {
 public:
  Terminal(int columns, int rows) : columns_(columns), rows_(rows), lines_(1) {}

  void feed(const std::string& bytes) {
    for (std::size_t i = 0; i < bytes.size();) {
      if (bytes[i] == '\x1b') {
        i = escape(bytes, i);
      } else {
        put(bytes[i++]);
      }
    }
  }

  // Everything on the screen and scrolled off it, without trailing blanks and empty last lines.
  std::vector<std::string> lines() const {
    std::vector<std::string> all = lines_;
    for (auto& line : all) line.erase(line.find_last_not_of(' ') + 1);
    while (!all.empty() && all.back().empty()) all.pop_back();
    return all;
  }
  std::size_t row() const { return row_; }
  int column() const { return column_; }

 private:
  void put(char c) {
    if (c == '\r') {
      column_ = 0;
    } else if (c == '\n') {
      column_ = 0;
      go_down();
    } else {
      ASSERT_GE(c, ' ');
      if (column_ == columns_) {
        column_ = 0;
        go_down();
      }
      auto& line = lines_[row_];
      if (static_cast<int>(line.size()) <= column_) line.resize(column_ + 1, ' ');
      line[column_++] = c;
    }
  }
  void go_down() {
    if (++row_ == lines_.size()) lines_.emplace_back();
  }
  std::size_t escape(const std::string& bytes, std::size_t i) {
    EXPECT_EQ(bytes.at(i + 1), '[');
    std::size_t used = 0;
    const int count = std::isdigit(bytes.at(i + 2)) ? std::stoi(bytes.substr(i + 2), &used) : 1;
    const char command = bytes.at(i + 2 + used);
    if (command == 'K' || command == 'J') {
      if (static_cast<int>(lines_[row_].size()) > column_) lines_[row_].resize(column_);
      if (command == 'J') lines_.resize(row_ + 1);
    } else if (command == 'A') {
      // A terminal stops at the top of its screen.
      const std::size_t top = lines_.size() > static_cast<std::size_t>(rows_) ? lines_.size() - rows_ : 0;
      row_ = row_ > top + count ? row_ - count : top;
    } else {
      ADD_FAILURE() << "escape sequence with " << command;
    }
    return i + 3 + used;
  }

  int columns_;
  int rows_;
  std::vector<std::string> lines_;
  std::size_t row_ = 0;
  int column_ = 0;
};

class ProgressTest : public ::testing::Test {
 protected:
  Screen screen(bool live) {
    return {&out_, live, [this] { return size_; }, [this] { return now_; }};
  }
  // What was written since the last call.
  std::string take() {
    std::string bytes = out_.str();
    out_.str("");
    return bytes;
  }
  std::vector<std::string> take_lines() {
    std::vector<std::string> lines;
    std::istringstream in(take());
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  std::vector<std::string> show() {
    terminal_.feed(take());
    return terminal_.lines();
  }

  std::ostringstream out_;
  Screen::Size size_{100, 24};
  double now_ = 1000;
  Terminal terminal_{100, 24};
};

using ProgressPlain = ProgressTest;
using ProgressLive = ProgressTest;

// ---- plain lines -----------------------------------------------------------------------------------------------

TEST_F(ProgressPlain, APhaseSaysWhenItBeginsAndHowLongItTook) {
  Progress progress(screen(false));
  progress.begin_phase("assemble");
  now_ += 3.21;
  progress.end_phase();
  progress.begin_phase("calibrate", 30, "files");
  EXPECT_THAT(take_lines(), ElementsAre("assemble", "assemble: done in 3.2 s", "calibrate: 30 files"));
}

TEST_F(ProgressPlain, BeginningAPhaseEndsTheOneBefore) {
  Progress progress(screen(false));
  progress.begin_phase("a");
  progress.begin_phase("b");
  EXPECT_THAT(take_lines(), ElementsAre("a", "a: done in 0.0 s", "b"));
}

TEST_F(ProgressPlain, InsideAPhaseAtMostALineEveryTwoSeconds) {
  Progress progress(screen(false));
  progress.begin_phase("calibrate", 1000);
  take();
  for (int i = 0; i < 100; ++i) {
    now_ += 0.1;
    progress.advance();
  }
  const auto lines = take_lines();
  EXPECT_THAT(lines.size(), ::testing::AllOf(::testing::Ge(4u), ::testing::Le(5u)));
  EXPECT_THAT(lines[0], StartsWith("calibrate 2"));
  EXPECT_THAT(lines[0], HasSubstr("/1000 blocks  elapsed 0:00:02  left 0:01:"));
}

TEST_F(ProgressPlain, LinesOfAnOldPhaseAreAMinuteApart) {
  Progress progress(screen(false));
  progress.begin_phase("calibrate", 100000);
  now_ += 10000;
  progress.advance();
  take();
  for (int i = 0; i < 600; ++i) {
    now_ += 1;
    progress.advance();
  }
  EXPECT_THAT(take_lines(), SizeIs(10));
}

TEST_F(ProgressPlain, OneLineAFinishedBlock) {
  Progress progress(screen(false));
  progress.begin_phase("tune", 30);
  progress.set_groups(2);
  take();
  progress.update(0, 0, 11, 0, 200, kNaN, kNaN);
  now_ += 41.2;
  progress.block_done(0, 0, 11, 1.234e-3, 8.7e-4, 41.2);
  // 29 blocks, 41.2 s each, by two groups
  EXPECT_THAT(take_lines(), ElementsAre("tune 1/30 blocks  group 0  block 11  loss 1.234e-03 -> 8.700e-04  41.2 s  "
                                        "left 0:09:57"));
}

TEST_F(ProgressPlain, BlocksThatTakeNoTimeGetALineEach) {
  Progress progress(screen(false));
  progress.begin_phase("tune", 30);
  progress.set_groups(1);
  take();
  for (int i = 0; i < 30; ++i) progress.block_done(0, 0, i, 1e-3, 1e-3, 0.01);
  EXPECT_THAT(take_lines(), SizeIs(30));
}

TEST_F(ProgressPlain, ALongBlockShowsItsIterations) {
  Progress progress(screen(false));
  progress.begin_phase("tune", 30);
  progress.set_groups(1);
  take();
  for (int i = 0; i <= 10; ++i) {
    progress.update(0, 2, 5, i, 200, 2e-3, 1e-3);
    now_ += 1;
  }
  EXPECT_EQ(take_lines()[0],
            "tune 0/30 blocks  group 0  stage 2  block 5  iteration 2/200  loss 2.000e-03 -> 1.000e-03  left 1:39:58");
}

TEST_F(ProgressPlain, NotesAreLinesAndNothingMovesTheCursor) {
  Progress progress(screen(false));
  progress.note("before");
  progress.begin_phase("tune", 2);
  progress.set_groups(1);
  progress.note("layer x stays in 16 bits");
  progress.tick();
  progress.block_done(0, 0, 0, 1, 1, 1);
  progress.end_phase();
  const std::string bytes = take();
  EXPECT_THAT(bytes, AllOf(StartsWith("before\n"), HasSubstr("\nlayer x stays in 16 bits\n")));
  EXPECT_THAT(bytes, AllOf(Not(HasSubstr("\x1b")), Not(HasSubstr("\r"))));
}

TEST_F(ProgressPlain, CallsOutsideAPhaseDoNothing) {
  Progress progress(screen(false));
  progress.advance();
  progress.set_groups(3);
  progress.set_total_blocks(3);
  progress.update(7, 0, 0, 0, 0, 0, 0);
  progress.block_done(7, 0, 0, 0, 0, 0);
  progress.idle(7);
  progress.tick();
  progress.end_phase();
  EXPECT_EQ(take(), "");
}

TEST_F(ProgressPlain, AStreamThatIsNotStderrGetsPlainLines) {
  Progress progress(out_);
  progress.begin_phase("tune", 2);
  EXPECT_EQ(take(), "tune: 2 blocks\n");
}

// ---- time left -------------------------------------------------------------------------------------------------

class ProgressTimeLeft : public ProgressTest {
 protected:
  // "0:12:30" as the live display's header says it now.
  std::string left(Progress& progress) {
    now_ += 0.2;  // a redraw is due
    progress.tick();
    const std::string header = show().at(1);
    return header.substr(header.find("left ") + 5);
  }
};

TEST_F(ProgressTimeLeft, IsUnknownUntilThereIsWorkToJudgeBy) {
  Progress progress(screen(true));
  progress.begin_phase("tune", 30);
  EXPECT_EQ(left(progress), "-:--:--");
  progress.set_groups(1);
  progress.update(0, 0, 0, 0, 200, kNaN, kNaN);
  EXPECT_EQ(left(progress), "-:--:--");
  now_ += 100;  // still in the first iteration
  EXPECT_EQ(left(progress), "-:--:--");
  progress.update(0, 0, 0, 1, 200, 1, 1);  // 1/200 of a block is too little
  EXPECT_EQ(left(progress), "-:--:--");
}

TEST_F(ProgressTimeLeft, ComesFromTheRunningIterationsOfTheFirstBlock) {
  Progress progress(screen(true));
  progress.begin_phase("tune", 10);
  progress.set_groups(1);
  progress.update(0, 0, 0, 0, 200, kNaN, kNaN);
  now_ += 19.8;
  progress.update(0, 0, 0, 20, 200, 1, 1);
  EXPECT_EQ(left(progress), "0:33:00");  // 20 s a tenth: 9.9 blocks of 200 s
}

TEST_F(ProgressTimeLeft, ComesFromFinishedBlocksLater) {
  Progress progress(screen(true));
  progress.begin_phase("tune", 10);
  progress.set_groups(1);
  progress.block_done(0, 0, 0, 1, 1, 90);
  progress.block_done(0, 0, 1, 1, 1, 110);
  EXPECT_EQ(left(progress), "0:13:20");
}

TEST_F(ProgressTimeLeft, IsSharedByTheGroupsAtWork) {
  Progress progress(screen(true));
  progress.begin_phase("tune", 9);
  progress.set_groups(4);
  progress.block_done(0, 0, 0, 1, 1, 100);
  EXPECT_EQ(left(progress), "0:03:20");
  progress.idle(2);
  progress.idle(3);
  EXPECT_EQ(left(progress), "0:06:40");
  progress.idle(0);
  progress.idle(1);
  EXPECT_EQ(left(progress), "0:13:20");  // never by zero
}

TEST_F(ProgressTimeLeft, IgnoresTheBlocksOfAnEarlierRun) {
  Progress progress(screen(true));
  progress.begin_phase("tune", 30);
  progress.set_groups(1);
  progress.set_total_blocks(10);
  EXPECT_EQ(left(progress), "-:--:--");
  EXPECT_THAT(show()[1], HasSubstr("20/30 blocks  66 %"));
  progress.block_done(0, 0, 20, 1, 1, 60);
  EXPECT_EQ(left(progress), "0:09:00");
  for (int i = 0; i < 9; ++i) progress.block_done(0, 0, 21 + i, 1, 1, 60);
  EXPECT_EQ(left(progress), "0:00:00");
  EXPECT_THAT(show()[1], HasSubstr("30/30 blocks  100 %"));
}

TEST_F(ProgressTimeLeft, OfOtherPhasesIsProportional) {
  Progress progress(screen(true));
  progress.begin_phase("calibrate", 10);
  progress.advance();
  EXPECT_EQ(left(progress), "-:--:--");  // after 0.2 s
  now_ += 9.6;
  progress.advance();
  EXPECT_EQ(left(progress), "0:00:40");
}

// ---- the live display ------------------------------------------------------------------------------------------

TEST_F(ProgressLive, ShowsPhaseBarAndALineAGroup) {
  Progress progress(screen(true));
  progress.begin_phase("tune", 30);
  progress.set_groups(3);
  for (int i = 0; i < 12; ++i) progress.block_done(0, 0, i, 1, 1, 60);
  progress.update(0, 1, 12, 0, 200, kNaN, kNaN);
  now_ += 30;
  progress.update(0, 1, 12, 100, 200, 1.234e-3, 8.7e-4);
  progress.idle(2);
  now_ += 0.2;
  progress.tick();
  EXPECT_THAT(show(),
              ElementsAre("",
                          "tune  [################------------------------]  12/30 blocks  41 %  elapsed 0:00:30  left "
                          "0:08:45",
                          "  group 0  stage 1  block 12  iteration 100/200  loss 1.234e-03 -> 8.700e-04",
                          "  group 1  waiting", "  group 2  no more work"));
}

TEST_F(ProgressLive, RedrawsAtMostFiveTimesASecond) {
  Progress progress(screen(true));
  progress.begin_phase("tune", 30);
  progress.set_groups(1);
  int redraws = 0;
  for (int i = 0; i < 1000; ++i) {  // one second
    now_ += 0.001;
    progress.update(0, 0, 0, i, 1000, 1, 1);
    redraws += !take().empty();
  }
  EXPECT_LE(redraws, 6);
  EXPECT_GE(redraws, 5);
}

TEST_F(ProgressLive, LeavesOneLineAPhaseAndACleanScreen) {
  {
    Progress progress(screen(true));
    for (const auto* name : {"calibrate", "tune"}) {
      progress.begin_phase(name, 30);
      progress.set_groups(4);
      for (int i = 0; i < 30; ++i) {
        now_ += 0.5;
        progress.block_done(i % 4, 0, i, 1, 1, 60);
        show();
      }
      progress.end_phase();
    }
  }
  EXPECT_THAT(show(), ElementsAre("calibrate: done in 15.0 s", "tune: done in 15.0 s"));
  EXPECT_EQ(terminal_.row(), 2u);
  EXPECT_EQ(terminal_.column(), 0);
}

TEST_F(ProgressLive, AnErrorInsideAPhaseLeavesACleanScreen) {
  try {
    Progress progress(screen(true));
    progress.begin_phase("tune", 30);
    progress.set_groups(4);
    now_ += 1;
    progress.tick();
    EXPECT_THAT(show(), SizeIs(6));
    throw bad_input("a", "b");
  } catch (const Error&) {
  }
  EXPECT_THAT(show(), SizeIs(0));
  EXPECT_EQ(terminal_.row(), 0u);
}

TEST_F(ProgressLive, NotesStayAboveTheFrame) {
  Progress progress(screen(true));
  progress.note("first");
  progress.begin_phase("tune", 30);
  progress.set_groups(2);
  progress.note("second");
  progress.note("third");
  EXPECT_THAT(show(), ElementsAre("first", "second", "third", "", StartsWith("tune  ["), "  group 0  waiting",
                                  "  group 1  waiting"));
  progress.end_phase();
  EXPECT_THAT(show(), ElementsAre("first", "second", "third", "tune: done in 0.0 s"));
}

TEST_F(ProgressLive, LinesOfOtherWritersAreNotErased) {
  Progress progress(screen(true));
  progress.begin_phase("tune", 30);
  progress.set_groups(2);
  now_ += 1;
  progress.tick();
  show();
  terminal_.feed("warning: of another rank\n");
  now_ += 1;
  progress.tick();
  EXPECT_THAT(show(), ElementsAre("warning: of another rank", "", StartsWith("tune  ["), "  group 0  waiting",
                                  "  group 1  waiting"));
}

TEST_F(ProgressLive, ManyGroupsGetASummary) {
  Progress progress(screen(true));
  progress.begin_phase("tune", 80);
  progress.set_groups(40);
  for (int i = 0; i < 40; ++i) progress.update(i, i, 2 * i, 5, 10, 1, 1);
  progress.idle(39);
  now_ += 0.2;
  progress.tick();
  const auto lines = show();
  ASSERT_THAT(lines, SizeIs(15));
  EXPECT_THAT(lines[13], StartsWith("  group 11  stage 11  block 22"));
  EXPECT_EQ(lines[14], "  and 28 more groups: 27 tuning, blocks 24 to 76");
}

TEST_F(ProgressLive, ScrollsWithinALowTerminal) {
  size_ = {100, 8};
  terminal_ = Terminal(100, 8);
  Progress progress(screen(true));
  for (int i = 0; i < 20; ++i) progress.note("line");
  progress.begin_phase("tune", 80);
  progress.set_groups(40);
  for (int i = 0; i < 50; ++i) {
    now_ += 1;
    progress.update(i % 40, 0, i, 5, 10, 1, 1);
    show();
  }
  progress.end_phase();
  const auto lines = show();
  EXPECT_THAT(lines, SizeIs(21));
  EXPECT_THAT(lines.back(), StartsWith("tune: done"));
}

TEST_F(ProgressLive, NoLineWrapsOnANarrowTerminal) {
  for (const int columns : {1, 2, 10, 30, 60, 79, 80, 200}) {
    size_ = {columns, 24};
    terminal_ = Terminal(columns, 24);
    Progress progress(screen(true));
    progress.begin_phase("tune", 80);
    progress.set_groups(12);
    for (int i = 0; i < 30; ++i) {
      now_ += 1;
      progress.update(i % 12, 0, i, 5, 10, 1e-3, 1e-4);
      const auto lines = show();
      EXPECT_LE(lines.size(), 14u) << columns;
      EXPECT_THAT(lines, Each(SizeIs(::testing::Lt(static_cast<std::size_t>(std::max(2, columns))))));
    }
  }
}

TEST_F(ProgressLive, TheBarFollowsARedoneWindow) {
  Progress progress(screen(true));
  progress.begin_phase("tune", 80);
  EXPECT_THAT(show()[1], HasSubstr("[----"));
  size_.columns = 60;
  now_ += 1;
  progress.tick();
  EXPECT_EQ(show()[1], "tune  0/80 blocks  0 %  elapsed 0:00:01  left -:--:--");
}

TEST_F(ProgressLive, APhaseOfUnknownLengthHasNoBar) {
  Progress progress(screen(true));
  progress.begin_phase("assemble", 0, "files");
  EXPECT_EQ(show()[1], "assemble  elapsed 0:00:00");
  now_ += 1;
  progress.advance(3);
  EXPECT_EQ(show()[1], "assemble  3 files  elapsed 0:00:01");
}

// ---- which of the two ------------------------------------------------------------------------------------------

class ScreenChoice : public ::testing::Test {
 protected:
  void TearDown() override { unsetenv("ROUNDTABLE_PROGRESS"); }
};

TEST_F(ScreenChoice, TheEnvironmentDecides) {
  setenv("ROUNDTABLE_PROGRESS", "live", 1);
  EXPECT_TRUE(stderr_screen().live);
  setenv("ROUNDTABLE_PROGRESS", "plain", 1);
  const Screen screen = stderr_screen();
  EXPECT_FALSE(screen.live);
  EXPECT_GT(screen.size().columns, 0);
  const double earlier = screen.clock();
  EXPECT_LE(earlier, screen.clock());
}

TEST_F(ScreenChoice, AFileIsNoTerminal) {
  const int kept = dup(STDERR_FILENO);
  ASSERT_NE(std::freopen("/dev/null", "w", stderr), nullptr);
  const bool live = stderr_screen().live;
  dup2(kept, STDERR_FILENO);
  close(kept);
  EXPECT_FALSE(live);
}

}  // namespace
}  // namespace roundtable
