// A thread that writes the ranks' last signs of life into the run directory (rundir/rank_status.h), for
// `roundtable status`.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "comm/watchdog.h"

namespace roundtable {

// On rank 0: writes the file every few seconds as long as this lives. A file that cannot be written is no fault,
// because no decision depends on it.
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
