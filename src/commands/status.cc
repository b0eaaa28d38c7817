// Putting a run's state together from its records and events.
#include "commands/status.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "config/units.h"
#include "rundir/events.h"
#include "rundir/journal.h"
#include "rundir/rank_status.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

// A job writes its signs of life every five seconds. Where the file system has no locks, old ones mean that it is gone.
constexpr double kSilent = 60;

constexpr const char* kAtWork = "at work";
constexpr const char* kLeft = "stopped early";
constexpr const char* kFinished = "finished";
constexpr const char* kInterrupted = "interrupted";

std::string run_directory_of(const std::string& path) {
  for (const std::string& directory : {path, path + ".run"}) {
    if (fs::exists(directory + "/journal")) return directory;
  }
  throw bad_input(path,
                  "no run is here: neither this folder nor the one of this name with .run at its end has a journal",
                  "name the run directory (run.directory, or output.path + \".run\")" + searched_from(path));
}

class Reader {
 public:
  Reader(const std::string& path, double now)
      : directory_(run_directory_of(path)),
        now_(now),
        held_(journal_is_held(directory_ + "/journal")),
        records_(read_journal(directory_ + "/journal").records),
        events_(events_of_last_start(directory_ + "/events.jsonl")),
        signs_(read_rank_status(directory_ + "/ranks.json")),
        run_(last_record<record::Run>(records_)) {
    for_each_record<record::Block>(records_, [&](const record::Block& block) { blocks_[block.block] = &block; });
  }

  RunStatus read() const {
    RunStatus status;
    status.directory = directory_;
    if (run_ != nullptr) status.output = run_->output;
    status.state = state();
    if (const auto* phase = last_event<event::PhaseStart>()) status.phase = phase->phase;
    status.phase_seconds = phase_seconds();
    status.stages = stages();
    status.blocks = {std::ssize(blocks_), status.stages.empty() ? 0 : status.stages.back().last};
    for (const auto& [block, record] : blocks_) status.losses.push_back({block, record->first_loss, record->best_loss});
    status.seconds_left = seconds_left(status.blocks.all);
    status.ranks = ranks();
    return status;
  }

 private:
  template <class T>
  const T* last_event() const {
    for (auto event = events_.rbegin(); event != events_.rend(); ++event) {
      if (const T* found = std::get_if<T>(&event->event)) return found;
    }
    return nullptr;
  }

  template <class T>
  bool ends_with() const {
    return !events_.empty() && std::holds_alternative<T>(events_.back().event);
  }

  bool at_work() const {
    if (held_) return true;
    const auto* start = last_event<event::Start>();
    const bool lock_tells = start != nullptr && start->locked;
    return !lock_tells && signs_ && now_ - signs_->time < kSilent && !events_.empty() && !ends_with<event::Leave>() &&
           !ends_with<event::Summary>();
  }

  std::string state() const {
    if (at_work()) return kAtWork;
    if (last_record<record::Summary>(records_) != nullptr) return kFinished;
    return last_event<event::Leave>() != nullptr ? kLeft : kInterrupted;
  }

  std::optional<double> phase_seconds() const {
    if (!at_work()) return std::nullopt;
    for (auto event = events_.rbegin(); event != events_.rend(); ++event) {
      if (!std::holds_alternative<event::PhaseStart>(event->event)) continue;
      return std::max(0.0, now_ - event->time);  // a clock may have been set back
    }
    return std::nullopt;
  }

  // Stage -> the group that tunes it now.
  std::map<std::int64_t, std::int64_t> groups_at_work() const {
    std::map<std::int64_t, std::int64_t> groups;
    for (const TimedEvent& event : events_) {
      if (const auto* start = std::get_if<event::StageStart>(&event.event)) groups[start->stage] = start->group;
      if (const auto* end = std::get_if<event::StageEnd>(&event.event)) groups.erase(end->stage);
    }
    return groups;
  }

  std::vector<RunStatus::Stage> stages() const {
    std::vector<RunStatus::Stage> stages;
    if (run_ == nullptr) return stages;
    const std::map<std::int64_t, std::int64_t> groups = groups_at_work();
    for (const BlockRange& range : run_->stages) {
      RunStatus::Stage stage{std::ssize(stages), range.first, range.last, 0, "", {}};
      for (std::int64_t block = range.first; block < range.last; ++block) stage.done += blocks_.contains(block);
      const auto group = groups.find(stage.stage);
      const bool running = at_work() && group != groups.end();
      if (running) stage.group = group->second;
      stage.state = running ? "running" : stage.done == range.last - range.first ? "done" : "waiting";
      stages.push_back(std::move(stage));
    }
    return stages;
  }

  // Blocks left, at the mean pace of this start's blocks, divided by the groups that are at work. Nothing while none is
  // done.
  std::optional<double> seconds_left(std::int64_t all) const {
    const auto* phase = last_event<event::PhaseStart>();
    if (!at_work() || phase == nullptr || phase->phase != "tune") return std::nullopt;
    double seconds = 0;
    std::int64_t tuned = 0;
    std::set<std::int64_t> groups;
    for (const TimedEvent& event : events_) {
      if (const auto* start = std::get_if<event::StageStart>(&event.event)) groups.insert(start->group);
      if (const auto* block = std::get_if<event::Block>(&event.event)) {
        seconds += block->record.seconds;
        ++tuned;
      }
    }
    if (tuned == 0) return std::nullopt;
    const auto left = static_cast<double>(all - std::ssize(blocks_));
    return left * seconds / static_cast<double>(tuned) / static_cast<double>(std::max<std::size_t>(1, groups.size()));
  }

  std::vector<RunStatus::Rank> ranks() const {
    std::vector<RunStatus::Rank> ranks;
    if (!signs_) return ranks;
    const double written = std::max(0.0, now_ - signs_->time);
    for (const RankSign& sign : signs_->ranks) {
      ranks.push_back({.rank = std::ssize(ranks),
                       .host = sign.host,
                       .phase = sign.phase,
                       .block = sign.block,
                       .seconds_ago = written + sign.age,
                       .idle = sign.idle,
                       .waiting_in = sign.waiting_in,
                       .peak_bytes = sign.peak_bytes,
                       .peak_device_bytes = sign.peak_device_bytes});
    }
    return ranks;
  }

  std::string directory_;
  double now_;
  bool held_;
  std::vector<Record> records_;
  std::vector<TimedEvent> events_;
  std::optional<RankStatus> signs_;
  const record::Run* run_;
  std::map<std::int64_t, const record::Block*> blocks_;
};

// ---- lines -----------------------------------------------------------------------------------------------------

std::string phase_line(const RunStatus& status) {
  if (!status.phase) return "";
  std::string line = fmt::format("phase    {}", *status.phase);
  if (status.phase_seconds) line += fmt::format(", for {}", clock_time(*status.phase_seconds));
  if (status.seconds_left) line += fmt::format(", about {} left", clock_time(*status.seconds_left));
  return line + "\n";
}

std::string stage_lines(const RunStatus& status) {
  std::map<std::string, int> count;
  std::string running;
  for (const RunStatus::Stage& stage : status.stages) {
    ++count[stage.state];
    if (!stage.group) continue;
    running += fmt::format("  stage {}  group {}  {} of {} blocks done\n", stage.stage, *stage.group, stage.done,
                           stage.last - stage.first);
  }
  return fmt::format("stages   {} done, {} running, {} waiting\n{}", count["done"], count["running"], count["waiting"],
                     running);
}

std::string loss_lines(const RunStatus& status) {
  double sum = 0, least = 1;
  std::int64_t n = 0, worst = -1;
  for (const RunStatus::Loss& loss : status.losses) {
    if (!std::isfinite(loss.first) || !std::isfinite(loss.best) || loss.first <= 0) continue;
    const double gain = 1 - loss.best / loss.first;
    sum += gain;
    ++n;
    if (gain < least || worst < 0) {
      least = gain;
      worst = loss.block;
    }
  }
  if (n == 0) return "";
  return fmt::format(
      "losses   {:.1f} % lower than before the first step, as the mean of {} blocks; least in block {}: {:.1f} %\n",
      100 * sum / static_cast<double>(n), n, worst, 100 * least);
}

std::string rank_lines(const RunStatus& status) {
  const auto& ranks = status.ranks;
  if (ranks.empty()) return "";
  const auto [newest, oldest] = std::minmax_element(
      ranks.begin(), ranks.end(), [](const auto& a, const auto& b) { return a.seconds_ago < b.seconds_ago; });
  std::string text = fmt::format("ranks    {}, last heard of {:.0f} to {:.0f} s ago\n", ranks.size(),
                                 newest->seconds_ago, oldest->seconds_ago);
  constexpr std::size_t kMost = 16;
  for (std::size_t i = 0; i < std::min(ranks.size(), kMost); ++i) {
    const RunStatus::Rank& rank = ranks[i];
    text += fmt::format("  rank {} on {}  {:.0f} s ago", i, rank.host, rank.seconds_ago);
    if (rank.block >= 0) text += fmt::format("  block {}", rank.block);
    if (rank.peak_bytes > 0) text += fmt::format("  peak {}", human_bytes(rank.peak_bytes));
    if (rank.peak_device_bytes > 0) text += fmt::format(", {} of its device", human_bytes(rank.peak_device_bytes));
    if (!rank.waiting_in.empty()) text += fmt::format("  waits in {} for {:.0f} s", rank.waiting_in, rank.idle);
    text += "\n";
  }
  if (ranks.size() > kMost) text += fmt::format("  and {} more (--json has them)\n", ranks.size() - kMost);
  return text;
}

}  // namespace

RunStatus read_status(const std::string& directory, double now) { return Reader(directory, now).read(); }

std::string describe_status(const RunStatus& status) {
  const bool unfinished = status.state == kLeft || status.state == kInterrupted;
  std::string text = fmt::format("run      {}\n", status.directory);
  if (status.output) text += fmt::format("output   {}\n", *status.output);
  text += fmt::format("state    {}{}\n", status.state, unfinished ? "; run the same command again: it resumes" : "");
  text += phase_line(status);
  text += fmt::format("blocks   {} of {} done\n", status.blocks.done, status.blocks.all);
  text += stage_lines(status) + loss_lines(status);
  if (status.state == kAtWork || status.state == kInterrupted) text += rank_lines(status);
  return text;
}

}  // namespace roundtable
