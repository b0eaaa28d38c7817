// The ranks' last signs of life as a file of the run directory, for `roundtable status`.
//
//   ranks.json  {"time": seconds since 1970, "ranks": [{"host", "phase", "block", "age", "idle", "waiting_in"}, ...]}
//
// age: seconds since rank 0 had heard of the rank; idle: seconds that it had been without a step then.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "comm/watchdog.h"

namespace roundtable {

// On rank 0: a thread that writes the file every few seconds as long as this lives. A file that cannot be written is
// no fault: nothing hangs on it.
class VitalSigns {
 public:
  VitalSigns(const Watchdog& watchdog, const std::string& path);
  ~VitalSigns();
  VitalSigns(const VitalSigns&) = delete;
  VitalSigns& operator=(const VitalSigns&) = delete;

 private:
  void run();
  void write() const;

  const Watchdog& watchdog_;
  std::string path_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace roundtable
