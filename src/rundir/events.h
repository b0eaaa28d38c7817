// The run's events as JSON lines (`events.jsonl` in the run directory): each iteration's loss, each phase's time.
// For people and plots; the journal, not this file, decides where a restart goes on.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "io/posix.h"

namespace roundtable {

// One thread writes. Every line is one JSON object: {"time": seconds since 1970, "event": "...", ...}.
class EventLog {
 public:
  // Opens `path` for appending, so that a restart goes on in the same file; a last line that a kill cut short is
  // removed first. `clock` gives seconds since 1970. Throws Error when the file cannot be opened.
  explicit EventLog(const std::string& path, std::function<double()> clock = wall_clock);
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  // Hands one line to the kernel before it returns. `fields` is an object without "time" and "event"; numbers that
  // are not finite become null. Throws Error (kMachine) on a full disk, and then leaves no half line.
  void append(std::string_view event, const nlohmann::ordered_json& fields = nlohmann::ordered_json::object());

  static double wall_clock();

 private:
  void drop_torn_tail();

  std::string path_;
  std::function<double()> clock_;
  UniqueFd file_;
  bool regular_ = false;   // not a device or a pipe: has a size
  std::int64_t size_ = 0;  // bytes of whole lines
};

}  // namespace roundtable
