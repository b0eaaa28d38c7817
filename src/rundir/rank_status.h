// The ranks' last signs of life as a file of the run directory (`ranks.json`), for `roundtable status`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace roundtable {

// The last that rank 0 had heard of a rank.
struct RankSign {
  std::string host;
  std::string phase;
  std::int64_t block = -1;  // -1: none
  double age = 0;           // seconds since it was heard
  double idle = 0;          // seconds that the rank had been without a step then
  std::string waiting_in;   // the call in which it waited for other ranks; empty: it worked
  std::int64_t peak_bytes = 0;         // of host memory, since the phase began
  std::int64_t peak_device_bytes = 0;  // 0: it works on a CPU

  template <class Fields>
  void fields(Fields& f) {
    f("host", host);
    f("phase", phase);
    f("block", block);
    f("age", age);
    f("idle", idle);
    f("waiting_in", waiting_in);
    f("peak_bytes", peak_bytes);
    f("peak_device_bytes", peak_device_bytes);
  }
};

struct RankStatus {
  double time = 0;  // when it was written, seconds since 1970
  std::vector<RankSign> ranks;

  template <class Fields>
  void fields(Fields& f) {
    f("time", time);
    f("ranks", ranks);
  }
};

// Writes the file atomically. Throws Error (kMachine).
void write_rank_status(const std::string& path, const RankStatus& status);

// Nothing where there is no file, or it cannot be read: no decision depends on it.
std::optional<RankStatus> read_rank_status(const std::string& path);

}  // namespace roundtable
