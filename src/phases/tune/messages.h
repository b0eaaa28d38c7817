// What workers (the leading rank of each group) and the coordinator say to each other while they tune, one struct per
// message. They travel as JSON texts through the Mailbox. A message of an unknown kind is a bug of ours: reading it
// throws.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "comm/mpi/mailbox.h"
#include "rundir/records.h"

namespace roundtable {
namespace message {

// ---- worker -> coordinator (MailTo::kCoordinator) ----

// Asks for a stage.
struct Ready {
  static constexpr const char* kType = "ready";
  template <class Fields>
  void fields(Fields&) {}
};

// Sent now and then while a block is tuned.
struct Progress {
  static constexpr const char* kType = "progress";
  std::int64_t stage = 0;
  std::int64_t block = 0;
  std::int64_t iteration = 0;  // steps taken
  std::int64_t iterations = 0;
  float first_loss = 0;
  float best_loss = 0;

  template <class Fields>
  void fields(Fields& f) {
    f("stage", stage);
    f("block", block);
    f("iteration", iteration);
    f("iterations", iterations);
    f("first_loss", first_loss);
    f("best_loss", best_loss);
  }
};

// The files of a block are on disk and were proven.
struct BlockDone {
  static constexpr const char* kType = "block";
  record::Block record;
  BlockCurves curves;

  template <class Fields>
  void fields(Fields& f) {
    f("record", record);
    f("curves", curves);
  }
};

// All blocks of a stage are done.
struct StageDone {
  static constexpr const char* kType = "stage_done";
  std::int64_t stage = 0;

  template <class Fields>
  void fields(Fields& f) {
    f("stage", stage);
  }
};

// The group was asked to leave and has ended its work.
struct Left {
  static constexpr const char* kType = "left";
  template <class Fields>
  void fields(Fields&) {}
};

// From rank 0 alone, whose own work failed: the coordinator is to end at once.
struct Stop {
  static constexpr const char* kType = "stop";
  template <class Fields>
  void fields(Fields&) {}
};

// ---- coordinator -> worker ----

// MailTo::kWorker, in answer to Ready: tune this stage; its first `finished` blocks are done already.
struct TuneStage {
  static constexpr const char* kType = "tune_stage";
  std::int64_t stage = 0;
  std::int64_t finished = 0;

  template <class Fields>
  void fields(Fields& f) {
    f("stage", stage);
    f("finished", finished);
  }
};

// MailTo::kWorker, in answer to Ready: there is nothing left to do, or all ranks leave.
struct End {
  static constexpr const char* kType = "end";
  template <class Fields>
  void fields(Fields&) {}
};

// MailTo::kWorkerAtWork: another group was asked to leave, so this one leaves too.
struct LeaveNow {
  static constexpr const char* kType = "leave_now";
  template <class Fields>
  void fields(Fields&) {}
};

}  // namespace message

using ToCoordinator = std::variant<message::Ready, message::Progress, message::BlockDone, message::StageDone,
                                   message::Left, message::Stop>;
using ToWorker = std::variant<message::TuneStage, message::End>;

std::string to_text(const ToCoordinator& message);
std::string to_text(const ToWorker& message);

// Throw std::logic_error, naming the message, where `text` is none of theirs.
ToCoordinator to_coordinator_from(const std::string& text);
ToWorker to_worker_from(const std::string& text);

// Each sends one message. `worker` and the coordinator (rank 0) are ranks of the mailbox's communicator.
void tell_coordinator(Mailbox& mailbox, const ToCoordinator& message);
void tell_worker(Mailbox& mailbox, int worker, const ToWorker& message);
void tell_to_leave(Mailbox& mailbox, int worker);
// Whether tell_to_leave() was called for this worker since. Never waits.
bool was_told_to_leave(Mailbox& mailbox);

}  // namespace roundtable
