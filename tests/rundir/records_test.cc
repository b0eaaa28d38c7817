// Records, events and signs of life: what is written is read back, and what cannot be read is refused by name.
#include "rundir/records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "base/version.h"
#include "rundir/events.h"
#include "rundir/journal.h"
#include "rundir/rank_status.h"
#include "tests/io/temporary_folder.h"
#include "tests/io/throws_error.h"
#include "tests/rundir/every_record.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

TEST(Records, EachComesBackWithEveryField) {
  std::set<std::string> kinds;
  for (const Record& record : testing::one_of_each<Record>()) {
    const nlohmann::json object = to_json(record);
    kinds.insert(object["type"]);
    const Record read = record_from_json(object, "1.2.3", "here");
    EXPECT_EQ(read.index(), record.index());
    EXPECT_EQ(to_json(read), object);
  }
  EXPECT_EQ(kinds.size(), std::variant_size_v<Record>) << "two records share a name";
}

TEST(Records, ABlockAsItIsOnDisk) {
  const record::Block block{.stage = 1,
                            .block = 12,
                            .files = {{"model-00013-of-00031.safetensors", "abc", 4096}},
                            .first_loss = 0.5,
                            .best_loss = 0.25,
                            .best_iteration = 49,
                            .seconds = 3.5,
                            .save_seconds = 0.125,
                            .experts_without_tokens = {"mlp.experts.3"},
                            .bytes_per_step = {.all_reduce = std::nullopt, .all_to_all = 2.5}};
  EXPECT_EQ(to_json(block).dump(),
            R"({"best_iteration":49,"best_loss":0.25,"block":12,)"
            R"("bytes_per_step":{"all_reduce":null,"all_to_all":2.5},)"
            R"("experts_with_few_tokens":null,"experts_without_tokens":["mlp.experts.3"],)"
            R"("files":[{"bytes":4096,"digest":"abc","name":"model-00013-of-00031.safetensors"}],"first_loss":0.5,)"
            R"("save_seconds":0.125,"seconds":3.5,"stage":1,"type":"block"})");
}

// Each key that is left out, and each value of another type.
TEST(Records, WhatIsMissingOrOfAnotherTypeIsRefusedByName) {
  int refused = 0;
  for (const Record& record : testing::one_of_each<Record>()) {
    const nlohmann::json whole = to_json(record);
    for (const auto& [key, value] : whole.items()) {
      if (key == "type") continue;
      nlohmann::json object = whole;
      object.erase(key);
      EXPECT_BAD_INPUT(
          record_from_json(object, "9.9.9", "journal: record at byte 16"),
          AllOf(HasSubstr("journal: record at byte 16: "), HasSubstr("'" + key + "' is missing"),
                HasSubstr("written by roundtable 9.9.9, and this is roundtable " + std::string(program_version()))));
      if (key == "fingerprint") continue;  // any JSON
      object[key] = nlohmann::json::array({nlohmann::json::object()});
      EXPECT_BAD_INPUT(record_from_json(object, "", "here"), AllOf(AnyOf(HasSubstr("'" + key), HasSubstr(": " + key)),
                                                                   AnyOf(HasSubstr("must be"), HasSubstr("is missing")),
                                                                   HasSubstr("another version of this program")));
      ++refused;
    }
  }
  EXPECT_GT(refused, 20);
}

TEST(Records, WholeNumbersStayInTheirRange) {
  nlohmann::json object = to_json(record::Boundary{3, 4});
  object["bytes"] = -1;
  EXPECT_BAD_INPUT(record_from_json(object, "", "here"), HasSubstr("'bytes' must be a whole number"));
  object["bytes"] = 1;
  object["block"] = std::numeric_limits<std::uint64_t>::max();
  EXPECT_BAD_INPUT(record_from_json(object, "", "here"), HasSubstr("'block' must be a whole number"));
  object["block"] = 1.5;
  EXPECT_BAD_INPUT(record_from_json(object, "", "here"), HasSubstr("'block' must be a whole number"));
}

TEST(Records, ALossThatIsNotFiniteComesBackAsOne) {
  record::Block block;
  block.best_loss = std::numeric_limits<double>::infinity();
  const auto object = nlohmann::json::parse(to_json(block).dump());
  EXPECT_TRUE(std::isnan(std::get<record::Block>(record_from_json(object, "", "here")).best_loss));
}

TEST(Records, WhatIsNoRecordIsRefused) {
  for (const char* text : {"[]", "3", "null", R"("run")", R"({"kind": "run"})", R"({"type": 3})"}) {
    EXPECT_BAD_INPUT(record_from_json(nlohmann::json::parse(text), "", "here"), HasSubstr("is not a record"));
  }
}

class RunFiles : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
  std::string journal_ = folder_.path() + "/journal";
  std::string events_ = folder_.path() + "/events.jsonl";
};

TEST_F(RunFiles, AnUnknownRecordNamesTheVersionThatWroteTheJournal) {
  const std::string run = testing::framed(to_json(record::Run{"7.2", {}, {}, "out"}).dump());
  folder_.put("journal", run + testing::framed(R"({"type":"teapot"})"));
  EXPECT_BAD_INPUT(read_journal(journal_),
                   AllOf(HasSubstr(fmt::format("record at byte {}", run.size())), HasSubstr("'teapot' is unknown"),
                         HasSubstr("written by roundtable 7.2"), HasSubstr("use the version that wrote it")));
  // The version also reaches the line where the record that names it is the one that cannot be read.
  folder_.put("journal", testing::framed(R"({"type":"run","version":"7.1"})"));
  EXPECT_BAD_INPUT(read_journal(journal_), AllOf(HasSubstr("record at byte 0"), HasSubstr("roundtable 7.1")));
  folder_.put("journal", testing::framed("no JSON at all"));
  EXPECT_BAD_INPUT(read_journal(journal_), HasSubstr("is not a record of this program"));
}

event::Start start_of(int ranks) {
  event::Start start;
  start.version = "1";
  start.ranks = ranks;
  return start;
}

TEST_F(RunFiles, EventsOfTheLastStart) {
  EXPECT_TRUE(events_of_last_start(events_).empty());
  {
    EventLog log(events_, [] { return 17.5; });
    log.append(start_of(2));
    log.append(event::PhaseStart{"calibrate"});
    log.append(start_of(4));
    for (const Event& event : testing::one_of_each<Event>()) {
      if (!std::holds_alternative<event::Start>(event)) log.append(event);
    }
  }
  std::ofstream(events_, std::ios::app) << "not json\n{\"time\": 18, \"event\": \"pha";
  const std::vector<TimedEvent> events = events_of_last_start(events_);
  ASSERT_EQ(events.size(), std::variant_size_v<Event>);
  EXPECT_EQ(std::get<event::Start>(events[0].event).ranks, 4);
  EXPECT_EQ(events[0].time, 17.5);
  const std::vector<Event> written = testing::one_of_each<Event>();
  for (std::size_t i = 1; i < events.size(); ++i) {
    EXPECT_EQ(tagged_json(events[i].event, "event"), tagged_json(written[i], "event"));
  }
}

TEST_F(RunFiles, AnUnknownEventNamesItsVersion) {
  folder_.put("events.jsonl", R"({"time": 1, "event": "teapot"})"
                              "\n");
  EXPECT_BAD_INPUT(events_of_last_start(events_), AllOf(HasSubstr("teapot"), HasSubstr("unknown to this version")));
  folder_.put("events.jsonl", R"({"time": 1, "event": "start", "version": "8.8"})"
                              "\n");
  EXPECT_BAD_INPUT(events_of_last_start(events_), AllOf(HasSubstr("8.8"), HasSubstr("'devices' is missing")));
}

TEST_F(RunFiles, SignsOfLife) {
  const std::string path = folder_.path() + "/ranks.json";
  EXPECT_FALSE(read_rank_status(path));
  write_rank_status(path, {12.5, {{"node01", "tune", 3, 0.5, 1.5, "MPI_Iallreduce", 9, 5}, {"node02", "", -1, 2, 0, ""}}});
  const auto read = read_rank_status(path);
  ASSERT_TRUE(read && read->ranks.size() == 2u);
  EXPECT_EQ(read->time, 12.5);
  EXPECT_EQ(read->ranks[0].host, "node01");
  EXPECT_EQ(read->ranks[0].waiting_in, "MPI_Iallreduce");
  EXPECT_EQ(read->ranks[0].peak_bytes, 9);
  EXPECT_EQ(read->ranks[0].peak_device_bytes, 5);
  EXPECT_EQ(read->ranks[1].block, -1);
  folder_.put("ranks.json", R"({"time": 1, "ranks": [{"host": 3}]})");
  EXPECT_FALSE(read_rank_status(path));
}

}  // namespace
}  // namespace roundtable
