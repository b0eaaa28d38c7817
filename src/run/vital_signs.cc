// Writing signs of life, on another thread than the watchdog's: a file system that hangs must not stop the watchdog.
#include "run/vital_signs.h"

#include <chrono>

#include "base/clock.h"
#include "base/error.h"
#include "rundir/events.h"
#include "rundir/rank_status.h"

namespace roundtable {

VitalSigns::VitalSigns(const Watchdog& watchdog, const std::string& path) : watchdog_(watchdog), path_(path) {
  thread_ = std::thread([this] { run(); });
}

VitalSigns::~VitalSigns() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void VitalSigns::run() {
  std::unique_lock lock(mutex_);
  do {
    lock.unlock();
    write();
    lock.lock();
  } while (!wake_.wait_for(lock, std::chrono::seconds(5), [this] { return ending_; }));
}

void VitalSigns::write() const {
  RankStatus status{EventLog::wall_clock(), {}};
  for (const SignOfLife& sign : watchdog_.signs()) {
    status.ranks.push_back({.host = sign.host,
                            .phase = sign.phase,
                            .block = sign.block,
                            .age = sign.age(steady_seconds()),
                            .idle = sign.idle_seconds(),
                            .waiting_in = sign.waiting_in(),
                            .peak_bytes = sign.memory.host,
                            .peak_device_bytes = sign.memory.device});
  }
  try {
    write_rank_status(path_, status);
  } catch (const Error&) {  // see the header
  }
}

}  // namespace roundtable
