// Putting a run's state together from its records and events.
#include "commands/status.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <vector>

#include "base/error.h"
#include "config/units.h"
#include "io/json_file.h"
#include "rundir/journal.h"

namespace roundtable {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// A job writes its signs of life every five seconds: where the file system knows no locks, so old ones mean that it is
// gone.
constexpr double kSilent = 60;

std::string run_directory_of(const std::string& path) {
  for (const std::string& directory : {path, path + ".run"}) {
    if (fs::exists(directory + "/journal")) return directory;
  }
  throw bad_input(path, "no run is here: there is no journal in it, nor in a directory of this name with .run behind",
                  "name the run directory (run.directory, or output.path + \".run\")");
}

// The events since the last start of the run. Lines that are not whole JSON (one is being written) are passed over.
std::vector<json> events_of_last_start(const std::string& path) {
  std::vector<json> events;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    json event = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!event.is_object() || !event.contains("event") || !event.contains("time")) continue;
    if (event["event"] == "start") events.clear();
    events.push_back(std::move(event));
  }
  return events;
}

json load_if_there(const std::string& path) {
  try {
    return load_json(path);
  } catch (const Error&) {
    return nullptr;
  }
}

class Reader {
 public:
  Reader(const std::string& path, double now)
      : directory_(run_directory_of(path)),
        now_(now),
        held_(journal_is_held(directory_ + "/journal")),
        records_(read_journal(directory_ + "/journal").records),
        events_(events_of_last_start(directory_ + "/events.jsonl")),
        signs_(load_if_there(directory_ + "/ranks.json")) {
    for (const json& record : records_) {
      if (record["type"] == "run") run_ = record;
      if (record["type"] == "block") blocks_[record.at("block")] = record;
    }
  }

  json read() const {
    const json stages = stages_with_state();
    std::int64_t all = 0;
    for (const json& stage : stages) all = std::max(all, stage["last"].get<std::int64_t>());
    json losses = json::array();
    for (const auto& [block, record] : blocks_) {
      losses.push_back({{"block", block}, {"first", record.at("first_loss")}, {"best", record.at("best_loss")}});
    }
    return {{"directory", directory_},
            {"output", run_.is_object() ? run_.value("output", json()) : json()},
            {"state", state()},
            {"phase", phase()},
            {"phase_seconds", phase_seconds()},
            {"blocks", {{"done", blocks_.size()}, {"all", all}}},
            {"stages", stages},
            {"losses", losses},
            {"seconds_left", seconds_left(all)},
            {"ranks", ranks()}};
  }

 private:
  const json* last_event(const std::string& name) const {
    for (auto event = events_.rbegin(); event != events_.rend(); ++event) {
      if ((*event)["event"] == name) return &*event;
    }
    return nullptr;
  }

  bool at_work() const {
    if (held_) return true;
    const json* start = last_event("start");
    const bool lock_tells = start != nullptr && (*start).value("locked", false);
    return !lock_tells && signs_.is_object() && now_ - signs_.value("time", 0.0) < kSilent && !events_.empty() &&
           events_.back()["event"] != "leave" && events_.back()["event"] != "summary";
  }

  std::string state() const {
    const bool finished = std::any_of(records_.begin(), records_.end(),
                                      [](const json& record) { return record["type"] == "summary"; });
    if (at_work()) return "at work";
    if (finished) return "finished";
    return last_event("leave") != nullptr ? "left in time" : "interrupted";
  }

  json phase() const {
    const json* start = last_event("phase_start");
    return start != nullptr ? (*start).at("phase") : json();
  }

  json phase_seconds() const {
    const json* start = last_event("phase_start");
    if (start == nullptr || !at_work()) return nullptr;
    return std::max(0.0, now_ - (*start)["time"].get<double>());  // a clock may have been set back
  }

  json stages_with_state() const {
    json stages = json::array();
    if (!run_.is_object() || !run_.contains("stages")) return stages;
    std::map<std::int64_t, json> groups;  // stage -> group that has it in hand
    for (const json& event : events_) {
      if (event["event"] == "stage_start") groups[event.at("stage")] = event.at("group");
      if (event["event"] == "stage_end") groups.erase(event.at("stage").get<std::int64_t>());
    }
    for (const json& cut : run_["stages"]) {
      const std::int64_t stage = std::ssize(stages);
      const std::int64_t first = cut.at(0), last = cut.at(1);
      std::int64_t done = 0;
      for (std::int64_t block = first; block < last; ++block) done += blocks_.contains(block);
      const bool running = at_work() && groups.contains(stage);
      stages.push_back({{"stage", stage},
                        {"first", first},
                        {"last", last},
                        {"done", done},
                        {"state", running ? "running" : done == last - first ? "done" : "waiting"},
                        {"group", running ? groups[stage] : json()}});
    }
    return stages;
  }

  // Blocks left, at the mean pace of this start's blocks, over the groups that are at work. Null while none is done.
  json seconds_left(std::int64_t all) const {
    if (!at_work() || phase() != "tune") return nullptr;
    double seconds = 0;
    std::int64_t tuned = 0;
    std::set<std::int64_t> groups;
    for (const json& event : events_) {
      if (event["event"] == "stage_start") groups.insert(event.at("group").get<std::int64_t>());
      if (event["event"] != "block") continue;
      seconds += event.at("seconds").get<double>();
      ++tuned;
    }
    if (tuned == 0) return nullptr;
    const auto left = static_cast<double>(all - std::ssize(blocks_));
    return left * seconds / static_cast<double>(tuned) / static_cast<double>(std::max<std::size_t>(1, groups.size()));
  }

  json ranks() const {
    json ranks = json::array();
    if (!signs_.is_object() || !signs_.contains("ranks")) return ranks;
    const double written = std::max(0.0, now_ - signs_.value("time", now_));
    for (json sign : signs_["ranks"]) {
      sign["rank"] = ranks.size();
      sign["seconds_ago"] = written + sign.value("age", 0.0);
      sign.erase("age");
      ranks.push_back(std::move(sign));
    }
    return ranks;
  }

  std::string directory_;
  double now_;
  bool held_;
  std::vector<json> records_;
  std::vector<json> events_;
  json signs_;
  json run_;
  std::map<std::int64_t, json> blocks_;
};

// ---- lines -----------------------------------------------------------------------------------------------------

std::string phase_line(const json& status) {
  if (status["phase"].is_null()) return "";
  std::string line = fmt::format("phase    {}", status["phase"].get<std::string>());
  if (status["phase_seconds"].is_number()) line += fmt::format(", for {}", clock_time(status["phase_seconds"]));
  if (status["seconds_left"].is_number()) line += fmt::format(", about {} left", clock_time(status["seconds_left"]));
  return line + "\n";
}

std::string stage_lines(const json& status) {
  std::map<std::string, int> count;
  std::string running;
  for (const json& stage : status["stages"]) {
    ++count[stage["state"]];
    if (stage["state"] != "running") continue;
    running += fmt::format("  stage {}  group {}  {} of {} blocks done\n", stage["stage"].get<std::int64_t>(),
                           stage["group"].get<std::int64_t>(), stage["done"].get<std::int64_t>(),
                           stage["last"].get<std::int64_t>() - stage["first"].get<std::int64_t>());
  }
  return fmt::format("stages   {} done, {} running, {} waiting\n{}", count["done"], count["running"], count["waiting"], running);
}

std::string loss_lines(const json& status) {
  double sum = 0, least = 1;
  std::int64_t n = 0, worst = -1;
  for (const json& loss : status["losses"]) {
    if (!loss["first"].is_number() || !loss["best"].is_number() || loss["first"].get<double>() <= 0) continue;
    const double gain = 1 - loss["best"].get<double>() / loss["first"].get<double>();
    sum += gain;
    ++n;
    if (gain < least || worst < 0) {
      least = gain;
      worst = loss["block"];
    }
  }
  if (n == 0) return "";
  return fmt::format("losses   {:.1f} % lower than by rounding to nearest in the mean of {} blocks; least in block {}: {:.1f} %\n",
                     100 * sum / static_cast<double>(n), n, worst, 100 * least);
}

std::string rank_lines(const json& status) {
  const json& ranks = status["ranks"];
  if (ranks.empty()) return "";
  double oldest = 0, newest = 1e300;
  for (const json& rank : ranks) {
    oldest = std::max(oldest, rank["seconds_ago"].get<double>());
    newest = std::min(newest, rank["seconds_ago"].get<double>());
  }
  std::string text = fmt::format("ranks    {}, last heard of {:.0f} to {:.0f} s ago\n", ranks.size(), newest, oldest);
  constexpr std::size_t kMost = 16;
  for (std::size_t i = 0; i < std::min(ranks.size(), kMost); ++i) {
    const json& rank = ranks[i];
    text += fmt::format("  rank {} on {}  {:.0f} s ago", i, rank["host"].get<std::string>(), rank["seconds_ago"].get<double>());
    if (rank["block"].get<std::int64_t>() >= 0) text += fmt::format("  block {}", rank["block"].get<std::int64_t>());
    if (const std::string call = rank["waiting_in"]; !call.empty()) {
      text += fmt::format("  waits in {} for {:.0f} s", call, rank["idle"].get<double>());
    }
    text += "\n";
  }
  if (ranks.size() > kMost) text += fmt::format("  and {} more (--json has them)\n", ranks.size() - kMost);
  return text;
}

}  // namespace

json read_status(const std::string& directory, double now) {
  try {
    return Reader(directory, now).read();
  } catch (const json::exception& error) {
    throw bad_input(directory, fmt::format("its journal or events are of another version ({})", error.what()));
  }
}

std::string describe_status(const json& status) {
  const std::string state = status["state"];
  std::string text = fmt::format("run      {}\n", status["directory"].get<std::string>());
  if (status["output"].is_string()) text += fmt::format("output   {}\n", status["output"].get<std::string>());
  text += fmt::format("state    {}{}\n", state, state == "left in time" || state == "interrupted" ? "; the same command goes on" : "");
  text += phase_line(status);
  text += fmt::format("blocks   {} of {} done\n", status["blocks"]["done"].get<std::int64_t>(), status["blocks"]["all"].get<std::int64_t>());
  text += stage_lines(status) + loss_lines(status);
  if (state == "at work" || state == "interrupted") text += rank_lines(status);
  return text;
}

}  // namespace roundtable
