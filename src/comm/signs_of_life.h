// What rank 0 knows of each rank, and what it concludes from that. No MPI, no clock and no thread: the watchdog has
// those.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/activity.h"

namespace roundtable {

// One thread of a rank, as it was when the sign was sent.
struct LaneSign {
  std::string name;         // "coordinator", "reader", "writer"; empty: the main thread
  double idle_seconds = 0;  // since its last step, or since it began to wait
  std::string waiting_in;   // the call in which it waits for other ranks; empty: it works by itself
};

// The last sign that rank 0 has of a rank.
struct SignOfLife {
  std::string host;
  std::string phase;
  std::int64_t block = -1;
  MemoryUse memory;
  std::vector<LaneSign> lanes;  // the threads that work, the main one first
  double heard = 0;             // when rank 0 had it from the rank, in seconds of rank 0's steady clock
  bool left = false;            // the rank is done, and nothing is expected of it

  double age(double now) const { return now - heard; }
  // Of the main thread.
  double idle_seconds() const { return lanes.empty() ? 0 : lanes.front().idle_seconds; }
  std::string waiting_in() const { return lanes.empty() ? std::string() : lanes.front().waiting_in; }
};

// This process, now (base/activity.h), and the way of a sign to rank 0: its phase, block, memory and lanes.
SignOfLife own_sign();
nlohmann::json to_json(const SignOfLife& sign);
void read_sign(const nlohmann::json& json, SignOfLife& sign);

// Why the job must end, as one line that names a rank of `ranks` (in rank order), or nothing. With `limit` seconds it
// is a fault if a rank
//   - has given no sign for longer (it is stopped, its node is gone, or it hangs inside MPI),
//   - has a thread that works by itself and has made no step for longer (a file system or device that hangs),
// or if all threads of all ranks have waited for other ranks for longer. Ranks that have left do not count.
std::optional<std::string> find_fault(const std::vector<SignOfLife>& ranks, double now, double limit);

// The line about rank `rank`, of which nothing was heard since.
std::string silence_line(int rank, const SignOfLife& sign, double now);

}  // namespace roundtable
