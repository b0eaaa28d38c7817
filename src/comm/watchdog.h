// Sees to it that a fault on one rank ends all ranks, soon and with one report; and finds ranks that hang.
//
// A thread a rank. Every second each rank tells rank 0 where it is and since when (base/activity.h), and rank 0 answers.
// Rank 0 ends the job when a rank
//   - gives no sign of life for the time limit (stopped, its node gone, or stuck inside MPI),
//   - works on something for that long without a step (a file system that hangs),
//   - or when all ranks wait for one another for that long.
// The others end it when rank 0 gives no sign. A rank that fails reports through rank 0, which prints the first report
// and ends all ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/mpi/communicator.h"

namespace roundtable {

// The last that rank 0 has heard of a rank.
struct SignOfLife {
  std::string host;
  std::string phase;
  std::int64_t block = -1;
  double age = 0;           // seconds since it was heard
  double idle_seconds = 0;  // how long it had been without a step then
  std::string waiting_in;   // the call in which it waited for others; empty: it worked
};

class Watchdog {
 public:
  // Collective over `world`. Starts the thread, with no time limit yet.
  explicit Watchdog(const MpiCommunicator& world);
  // Collective: returns when all ranks have come here. A rank that does not come is found as any that hangs.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // 0: none.
  void set_time_limit(double seconds);

  // On rank 0: one entry a rank. From any thread.
  std::vector<SignOfLife> signs() const;

  // Ends all ranks with `code` and this one line; the first caller's counts. From any thread.
  [[noreturn]] void end_all(ExitCode code, const std::string& line);

 private:
  class Outbox;
  class Thread;
  std::unique_ptr<Thread> thread_;
};

}  // namespace roundtable
