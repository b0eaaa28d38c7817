// The coordinator of the tuning phase: hands out stages on request, and alone writes the journal and draws progress.
// It runs as a thread of rank 0, beside that rank's own work as a worker.
#pragma once

#include <cstdint>
#include <exception>
#include <set>
#include <thread>
#include <vector>

#include "comm/mpi/mailbox.h"
#include "rundir/events.h"
#include "plan/plan.h"
#include "run/progress.h"
#include "rundir/paths.h"
#include "run/resume.h"

namespace roundtable {

// Mail between workers (the leading rank of each group) and the coordinator; JSON texts.
//   worker -> coordinator   {"type": "ready"}                          asks for a stage
//                           {"type": "progress", "block", ...}         now and then
//                           {"type": "block", "block", "file", ...}    a shard stands on the disk
//                           {"type": "stage", "stage"}                 a stage is done
//                           {"type": "leave"}                          was asked to leave; the group ends here
//                           {"type": "stop"}                           rank 0 alone: end at once
//   coordinator -> worker   {"type": "stage", "stage", "finished"}     tune it, its first `finished` blocks are done
//                           {"type": "end"}                            nothing is left, or all leave
//   ... to one at work      {"type": "leave"}                          another group was asked to
class Coordinator {
 public:
  Coordinator(const Plan& plan, const RunPaths& paths, bool keep_boundaries, RunState& state, Mailbox& mailbox,
              EventLog& events, Progress& progress);

  // Serves until every group was told to end or has left, or stop() was called. Throws Error on journal and file errors.
  void serve();
  // Ends serve() on rank 0, whose worker failed and is about to end the job.
  static void stop(Mailbox& mailbox);

 private:
  void handle(const Mail& mail);
  void hand_out(int worker);
  void leave(int worker);
  void finish_block(int group, const nlohmann::json& message);
  void finish_stage(std::int64_t stage);

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
