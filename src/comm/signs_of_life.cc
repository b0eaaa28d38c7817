// Signs as JSON, and the three faults that show in them.
#include "comm/signs_of_life.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/activity.h"

namespace roundtable {
namespace {

constexpr const char* kLaneNames[kLanes] = {"", "coordinator", "reader", "writer"};
constexpr std::size_t kNamedWaits = 4;  // of a job of thousands of ranks the first few say enough

std::string place_of(int rank, const SignOfLife& sign) {
  return fmt::format("rank {} on {}, {}{}", rank, sign.host, sign.phase.empty() ? "plan" : sign.phase,
                     sign.block >= 0 ? fmt::format(", block {}", sign.block) : "");
}

std::string hang_line(int rank, const SignOfLife& sign, const LaneSign& lane) {
  const std::string thread = lane.name.empty() ? "" : fmt::format("its {} ", lane.name);
  return fmt::format(
      "{}: {}hangs: no step for {:.0f} s (run.time_limit); check its file system and device, or raise "
      "the limit, and run the same command again: it resumes",
      place_of(rank, sign), thread, lane.idle_seconds);
}

std::string deadlock_line(const std::vector<SignOfLife>& ranks, double idle) {
  std::string calls;
  for (std::size_t rank = 0; rank < std::min(ranks.size(), kNamedWaits); ++rank) {
    if (ranks[rank].left || ranks[rank].lanes.empty()) continue;
    calls += fmt::format("{}rank {} in {}", calls.empty() ? "" : ", ", rank, ranks[rank].waiting_in());
  }
  return fmt::format(
      "{}: all ranks have waited for each other for {:.0f} s (run.time_limit), {}; run the same command "
      "again: it resumes",
      place_of(0, ranks.front()), idle, calls);
}

}  // namespace

SignOfLife own_sign() {
  SignOfLife sign;
  sign.phase = present_phase();
  sign.block = present_block();
  sign.memory = memory_use();
  for (int lane = 0; lane < kLanes; ++lane) {
    const Activity seen = activity(static_cast<Lane>(lane));
    if (seen.watched) sign.lanes.push_back({kLaneNames[lane], seen.idle_seconds, seen.waiting_in});
  }
  return sign;
}

nlohmann::json to_json(const SignOfLife& sign) {
  nlohmann::json lanes = nlohmann::json::array();
  for (const LaneSign& lane : sign.lanes) lanes.push_back({lane.name, lane.idle_seconds, lane.waiting_in});
  return {{"phase", sign.phase},
          {"block", sign.block},
          {"memory", {sign.memory.host, sign.memory.device}},
          {"lanes", lanes}};
}

void read_sign(const nlohmann::json& json, SignOfLife& sign) {
  sign.phase = json["phase"];
  sign.block = json["block"];
  sign.memory = {json["memory"][0], json["memory"][1]};
  sign.lanes.clear();
  for (const nlohmann::json& lane : json["lanes"]) sign.lanes.push_back({lane[0], lane[1], lane[2]});
}

std::string silence_line(int rank, const SignOfLife& sign, double now) {
  return fmt::format(
      "{}: no sign of life for {:.0f} s (run.time_limit): the process is stopped, its node is gone, or "
      "it hangs inside MPI; run the same command again: it resumes",
      place_of(rank, sign), sign.age(now));
}

std::optional<std::string> find_fault(const std::vector<SignOfLife>& ranks, double now, double limit) {
  // Silence first: a rank's threads look idle, too, when nothing is heard of them.
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    const SignOfLife& sign = ranks[rank];
    if (!sign.left && sign.age(now) > limit) return silence_line(static_cast<int>(rank), sign, now);
  }
  bool any = false, all_wait = true;
  double least_idle = 0;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    if (ranks[rank].left) continue;
    for (const LaneSign& lane : ranks[rank].lanes) {
      const bool waits = !lane.waiting_in.empty();
      if (!waits && lane.idle_seconds > limit) return hang_line(static_cast<int>(rank), ranks[rank], lane);
      least_idle = any ? std::min(least_idle, lane.idle_seconds) : lane.idle_seconds;
      any = true;
      all_wait = all_wait && waits;
    }
  }
  if (any && all_wait && least_idle > limit) return deadlock_line(ranks, least_idle);
  return std::nullopt;
}

}  // namespace roundtable
