// Where this process is in its work: reports of faults name it, and the watchdog looks at it. Process-wide, like the
// log.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/error.h"

namespace roundtable {

// The threads whose work is watched.
enum class Lane : int { kMain = 0, kCoordinator = 1, kReader = 2, kWriter = 3 };
inline constexpr int kLanes = 4;

struct Activity {
  bool watched = false;     // a thread works in this lane
  std::string waiting_in;   // the call in which it waits for other ranks; empty while it works itself
  double idle_seconds = 0;  // since its last step, or since it began to wait
};

// Names this process in where(): "rank 3 on node07". Call it once, before other threads exist.
void set_rank(int rank);

// The current phase ("calibrate"; empty: none yet) and block (-1: none). Thread-safe.
void enter_phase(const std::string& phase);
void enter_block(std::int64_t block);
std::string present_phase();
std::int64_t present_block();

// While this object lives, the calling thread works in `lane`, and the watchdog watches it.
class WatchedThread {
 public:
  explicit WatchedThread(Lane lane);
  ~WatchedThread();
  WatchedThread(const WatchedThread&) = delete;
  WatchedThread& operator=(const WatchedThread&) = delete;
};

// Says that the calling thread has made a step: a micro-batch, a piece of a file, a collective. Cheap. Does nothing in
// a thread that is not watched.
void note_progress();

// While this object lives, the calling thread waits for other ranks: if that takes too long, they are at fault, not
// this rank. `call` names the call and must outlive the object.
class WaitsForOthers {
 public:
  explicit WaitsForOthers(const char* call);
  ~WaitsForOthers();
  WaitsForOthers(const WaitsForOthers&) = delete;
  WaitsForOthers& operator=(const WaitsForOthers&) = delete;

 private:
  const char* around_;  // the call that this call is part of
};

Activity activity(Lane lane);

// The most memory that this process has used since the present phase began, in bytes.
struct MemoryUse {
  std::int64_t host = 0;
  std::int64_t device = 0;  // 0: it works on a CPU
};

// How to find that out: whoever chooses the device says it. `gauge` is called from any thread until the process ends.
void set_memory_gauge(std::function<MemoryUse()> gauge);

// Zeros before that.
MemoryUse memory_use();

std::string host_name();

// "rank 3 on node07, tune, block 12"; "the coordinator, rank 0 on node07, tune" on its thread.
std::string where();

// `line` with where() in front, once the first phase has begun. Before that, lines are about input, and it does not
// matter which rank found them.
std::string located(const std::string& line);

// An error whose line already says where it comes from, as where() does.
class LocatedError : public Error {
 public:
  using Error::Error;
};

}  // namespace roundtable
