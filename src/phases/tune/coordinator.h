// The coordinator of the tuning phase: hands out stages on request. Nobody else writes the journal or draws progress.
// It runs as a thread of rank 0, next to that rank's own work as a worker.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <set>
#include <thread>
#include <vector>

#include "comm/mpi/mailbox.h"
#include "phases/tune/messages.h"
#include "plan/plan.h"
#include "run/progress.h"
#include "run/resume.h"
#include "rundir/events.h"
#include "rundir/paths.h"

namespace roundtable {

// Answers the workers' messages (phases/tune/messages.h): hands out the stage with the most blocks left first, writes
// the record of each finished block, and tells the other groups when one was asked to leave.
class Coordinator {
 public:
  Coordinator(const Plan& plan, const RunPaths& paths, bool keep_boundaries, RunState& state, Mailbox& mailbox,
              EventLog& events, Progress& progress);

  // Serves until every group was told to end or has left, or rank 0 sent Stop. Throws Error on journal and file errors,
  // std::logic_error for a message that it does not know.
  void serve();

 private:
  void handle(int worker, const message::Ready&);
  void handle(int worker, const message::Progress& message);
  void handle(int worker, const message::BlockDone& message);
  void handle(int worker, const message::StageDone& message);
  void handle(int worker, const message::Left&);
  void handle(int worker, const message::Stop&);
  int group_of(int worker) const { return worker / plan_.shards; }

  const Plan& plan_;
  RunPaths paths_;
  bool keep_boundaries_;
  RunState& state_;
  Mailbox& mailbox_;
  EventLog& events_;
  Progress& progress_;
  std::vector<std::size_t> waiting_;  // stages not handed out yet, the longest last
  int groups_at_work_;
  std::set<int> tuning_;  // leading ranks that have a stage in hand
  bool leaving_ = false;
};

// Runs coordinator.serve() in a thread. An error there ends the whole job through `on_error`.
std::thread start_coordinator(Coordinator& coordinator, std::function<void(std::exception_ptr)> on_error);

}  // namespace roundtable
