// The watchdog: a fault on one rank ends all ranks, soon and with one report; and ranks that hang are found.
//
// It is one thread per rank. Every second each rank tells rank 0 what it does (base/activity.h), and rank 0 tells them
// that it lives. Rank 0 ends the job if it finds a fault in these signs (find_fault() in comm/signs_of_life.h); the
// others end it if rank 0 is silent. A rank that fails reports through rank 0, which prints the first report and ends
// all ranks. A rank that finds a broken link (comm/link_check.h) does so too, if nobody reports a cause soon after.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/mpi/communicator.h"
#include "comm/signs_of_life.h"

namespace roundtable {

class Watchdog {
 public:
  // Collective over `world`. Starts the thread, with no time limit yet.
  explicit Watchdog(const MpiCommunicator& world);
  // Collective: returns when all ranks have called it. A rank that never does is found like any other that hangs.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // How long a rank may be silent, or without a step. 0: no limit. Not collective.
  void set_time_limit(double seconds);

  // On rank 0: one entry per rank. From any thread.
  std::vector<SignOfLife> signs() const;

  // Ends all ranks with `code` and prints this one line, which names its rank. If several ranks or threads call it, the
  // first line counts. From any thread.
  [[noreturn]] void end_all(ExitCode code, const std::string& line);

 private:
  class Outbox;
  class Thread;
  std::unique_ptr<Thread> thread_;
};

}  // namespace roundtable
