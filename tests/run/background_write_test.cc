// Work beside the computing: its end, its errors, and who finds them when.
#include "run/background_write.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <thread>

#include "base/activity.h"
#include "base/error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// check() until it throws or a long time has passed.
void check_for_long(const WriteBehind& writer) {
  for (int i = 0; i < 1000; ++i) {
    writer.check();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

template <class Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const LocatedError& error) {
    return error.what();
  }
  return "no LocatedError";
}

TEST(WriteBehind, WorksInAThreadThatTheWatchdogKnows) {
  std::promise<void> go;
  std::promise<void> begun;
  WriteBehind writer;
  writer.finish();  // nothing to wait for
  writer.start([&] {
    begun.set_value();
    go.get_future().wait();
  });
  begun.get_future().wait();
  EXPECT_TRUE(activity(Lane::kWriter).watched);
  writer.check();
  go.set_value();
  writer.finish();
  EXPECT_FALSE(activity(Lane::kWriter).watched);
}

TEST(WriteBehind, AnErrorNamesThePlaceOfItsStart) {
  WriteBehind writer;
  enter_phase("calibrate");
  enter_block(4);
  writer.start([] { throw machine_error("boundary-00004.h5", "No space left"); });
  enter_block(5);
  const auto names_the_start = AllOf(HasSubstr("calibrate, block 4: "), HasSubstr("boundary-00004.h5"));
  EXPECT_THAT(message_of([&] { check_for_long(writer); }), names_the_start);
  EXPECT_THAT(message_of([&] { writer.finish(); }), names_the_start);
  enter_phase("");
  writer.start([] {});
  writer.finish();
}

TEST(WriteBehind, WhatAllRanksAgreedOnWaitsForTheEnd) {
  WriteBehind writer;
  std::promise<void> ended;
  writer.start([&] {
    ended.set_value();
    throw AgreedError(ExitCode::kMachine, "as it is");
  });
  ended.get_future().wait();
  for (int i = 0; i < 20; ++i) {
    writer.check();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  try {
    writer.finish();
    FAIL() << "the error was lost";
  } catch (const AgreedError& error) {
    EXPECT_STREQ(error.what(), "as it is");
  }
}

TEST(WriteBehind, ItsEndWaitsForTheWork) {
  std::atomic<bool> ended = false;
  {
    WriteBehind writer;
    writer.start([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ended = true;
    });
  }
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace roundtable
