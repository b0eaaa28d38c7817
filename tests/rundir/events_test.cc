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
#include <stdexcept>

#include "base/error.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

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

TEST_F(EventLogTest, OneObjectALineWithTimeAndEventFirst) {
  EventLog log = open();
  log.append("iteration", {{"loss", 0.5}, {"block", 3}});
  EXPECT_THAT(lines(), ElementsAre(R"({"time":1700000000.25,"event":"iteration","loss":0.5,"block":3})"));
  log.append("done");  // and each line stands at once
  log.append("sorted", nlohmann::json{{"b", 1}, {"a", "x\ny"}});
  EXPECT_EQ(lines().at(1), R"({"time":1700000000.25,"event":"done"})");
  EXPECT_EQ(lines().at(2), R"({"time":1700000000.25,"event":"sorted","a":"x\ny","b":1})");
}

TEST_F(EventLogTest, ARestartGoesOnInTheSameFile) {
  open().append("a");
  open().append("b");
  EXPECT_THAT(lines(), ElementsAre(HasSubstr("\"a\""), HasSubstr("\"b\"")));
}

TEST_F(EventLogTest, ALineThatAKillCutShortIsDropped) {
  const std::string whole = R"({"event":"a"})";
  const std::string next = R"({"time":1700000000.25,"event":"b"})";
  for (const auto& torn : {std::string("{\"time\":17"), std::string(4096, 'x'), std::string(10000, 'x')}) {
    std::ofstream(path_, std::ios::trunc) << whole << "\n" << torn;
    open().append("b");
    EXPECT_THAT(lines(), ElementsAre(whole, next));
    std::ofstream(path_, std::ios::trunc) << torn;
    open().append("b");
    EXPECT_THAT(lines(), ElementsAre(next));
  }
}

TEST_F(EventLogTest, WhatJsonCannotHoldDoesNotEndTheRun) {
  EventLog log = open();
  log.append("x", {{"loss", std::numeric_limits<double>::quiet_NaN()}, {"path", "\xFF"}});
  EXPECT_THAT(nlohmann::json::parse(lines().at(0))["loss"].is_null(), true);
}

TEST_F(EventLogTest, FieldsDoNotReplaceTimeOrEvent) {
  EventLog log = open();
  EXPECT_THROW(log.append("x", {{"time", 3}}), std::logic_error);
  EXPECT_THROW(log.append("x", {1, 2}), std::logic_error);
  EXPECT_THAT(lines(), SizeIs(0));
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
  EXPECT_EQ(error_of(ExitCode::kMachine, [&] { log.append("x"); }),
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
