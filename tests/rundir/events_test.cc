// The event log: whole lines, whatever ended the run before.
#include "rundir/events.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class EventLogTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::temp_directory_path() / ("events." + std::to_string(getpid()) + ".jsonl");
    fs::remove(path_);
  }
  void TearDown() override { fs::remove(path_); }

  std::vector<std::string> lines() const {
    std::vector<std::string> all;
    std::ifstream in(path_);
    for (std::string line; std::getline(in, line);) all.push_back(line);
    return all;
  }
  EventLog open() const {
    return EventLog(path_, [] { return 1700000000.25; });
  }

  fs::path path_;
};

TEST_F(EventLogTest, OneObjectPerLineWithTimeAndEventFirst) {
  EventLog log = open();
  log.append(event::StageStart{3, 1});
  EXPECT_THAT(lines(), ElementsAre(R"({"time":1700000000.25,"event":"stage_start","group":1,"stage":3})"));
  log.append(event::Leave{"x\ny", "tune", 2});  // and each line is in the file at once
  EXPECT_EQ(lines().at(1), R"({"time":1700000000.25,"event":"leave","blocks":2,"phase":"tune","reason":"x\ny"})");
}

TEST_F(EventLogTest, ARestartContinuesTheSameFile) {
  open().append(event::PhaseStart{"a"});
  open().append(event::PhaseStart{"b"});
  EXPECT_THAT(lines(), ElementsAre(HasSubstr("\"a\""), HasSubstr("\"b\"")));
}

TEST_F(EventLogTest, ALineThatAKillCutShortIsDropped) {
  const std::string whole = R"({"event":"a"})";
  const std::string next = R"({"time":1700000000.25,"event":"phase_start","phase":"b"})";
  for (const auto& torn : {std::string("{\"time\":17"), std::string(4096, 'x'), std::string(10000, 'x')}) {
    std::ofstream(path_, std::ios::trunc) << whole << "\n" << torn;
    open().append(event::PhaseStart{"b"});
    EXPECT_THAT(lines(), ElementsAre(whole, next));
    std::ofstream(path_, std::ios::trunc) << torn;
    open().append(event::PhaseStart{"b"});
    EXPECT_THAT(lines(), ElementsAre(next));
  }
}

TEST_F(EventLogTest, WhatJsonCannotHoldDoesNotEndTheRun) {
  EventLog log = open();
  log.append(event::Phase{"\xFF", std::numeric_limits<double>::quiet_NaN()});
  EXPECT_TRUE(nlohmann::json::parse(lines().at(0))["seconds"].is_null());
}

std::string error_of(ExitCode code, const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  return {};
}

TEST_F(EventLogTest, AFullDiskIsAnError) {
  EventLog log("/dev/full");
  EXPECT_EQ(
      error_of(ExitCode::kMachine, [&] { log.append(event::StageEnd{1}); }),
      "/dev/full: cannot be written and ends with half a line: No space left on device; free some space there and "
      "run the same command again");
}

TEST_F(EventLogTest, AFileThatCannotBeOpenedIsAnError) {
  EXPECT_EQ(error_of(ExitCode::kBadInput, [] { EventLog log("/nowhere/events.jsonl"); }),
            "/nowhere/events.jsonl: cannot be opened: No such file or directory; check the path");
  EXPECT_THAT(error_of(ExitCode::kBadInput, [] { EventLog log("/"); }), HasSubstr("Is a directory"));
}

}  // namespace
}  // namespace roundtable
