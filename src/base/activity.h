// Where this process is in its work: what the report of a fault names, and what the watchdog looks at. Process-wide, as
// the log is.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace roundtable {

// The threads whose work is watched.
enum class Lane : int { kMain = 0, kCoordinator = 1, kReader = 2, kWriter = 3 };
inline constexpr int kLanes = 4;

struct Activity {
  bool watched = false;      // a thread works in this lane
  std::string waiting_in;    // the call in which it waits for other ranks; empty: it works itself
  double idle_seconds = 0;   // since its last step, or since it began to wait
};

// Names this process in where(): "rank 3 on node07". To be called once, before other threads exist.
void set_rank(int rank);

// The present phase ("calibrate"; empty: none yet) and block (-1: none). From any thread.
void enter_phase(const std::string& phase);
void enter_block(std::int64_t block);
std::string present_phase();
std::int64_t present_block();

// The calling thread works in `lane` as long as this lives.
class WatchedThread {
 public:
  explicit WatchedThread(Lane lane);
  ~WatchedThread();
  WatchedThread(const WatchedThread&) = delete;
  WatchedThread& operator=(const WatchedThread&) = delete;
};

// The calling thread, where it is watched, has made a step: a micro-batch, a piece of a file, a collective. Cheap.
void note_progress();

// As long as this lives, the calling thread waits for other ranks, and it is their fault if that lasts. `call` must
// outlive it.
class WaitsForOthers {
 public:
  explicit WaitsForOthers(const char* call);
  ~WaitsForOthers();
  WaitsForOthers(const WaitsForOthers&) = delete;
  WaitsForOthers& operator=(const WaitsForOthers&) = delete;

 private:
  const char* around_;  // the call that this one is part of
};

Activity activity(Lane lane);

std::string host_name();

// "rank 3 on node07, tune, block 12"; "the coordinator, rank 0 on node07, tune" on its thread.
std::string where();

// `line` with where() in front once the first phase has begun; before that, lines speak of input, and the rank that
// found them does not matter.
std::string located(const std::string& line);

// An error whose line says already where it comes from, as where() does.
class LocatedError : public Error {
 public:
  using Error::Error;
};

}  // namespace roundtable
