// The run's events as JSON lines (`events.jsonl` in the run directory): each iteration's loss, each phase's time. For
// people and plots; the journal, not this file, decides where a restart resumes. What the events say is in
// rundir/records.h.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/posix.h"
#include "rundir/records.h"

namespace roundtable {

// One thread writes. Every line is one JSON object: {"time": seconds since 1970, "event": "...", ...}.
class EventLog {
 public:
  // Opens `path` for appending, so that a restart continues the same file; a last line that a kill cut short is
  // removed first. `clock` gives seconds since 1970. Throws Error when the file cannot be opened.
  explicit EventLog(const std::string& path, std::function<double()> clock = wall_clock);
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  // Hands one line to the kernel before it returns. Numbers that are not finite become null. Throws Error (kMachine) on
  // a full disk, and then leaves no half line.
  void append(const Event& event);

  static double wall_clock();

 private:
  void drop_torn_tail();

  std::string path_;
  std::function<double()> clock_;
  UniqueFd file_;
  bool regular_ = false;   // not a device or a pipe: has a size
  std::int64_t size_ = 0;  // bytes of whole lines
};

struct TimedEvent {
  double time = 0;  // seconds since 1970
  Event event;
};

// The events since the last start of the run; none where there is no file. A last line that is still being written, and
// lines that are damaged, are passed over. Throws Error (kBadInput) for an event that this version does not know or
// cannot read; the line names the version that wrote it.
std::vector<TimedEvent> events_of_last_start(const std::string& path);

}  // namespace roundtable
