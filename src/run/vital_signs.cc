// Writing signs of life, beside the watchdog's own thread: a file system that hangs must not blind that one.
#include "run/vital_signs.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "io/json_file.h"
#include "rundir/events.h"

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
  nlohmann::json ranks = nlohmann::json::array();
  for (const SignOfLife& sign : watchdog_.signs()) {
    ranks.push_back({{"host", sign.host},
                     {"phase", sign.phase},
                     {"block", sign.block},
                     {"age", sign.age(steady_seconds())},
                     {"idle", sign.idle_seconds()},
                     {"waiting_in", sign.waiting_in()}});
  }
  try {
    save_json(path_, {{"time", EventLog::wall_clock()}, {"ranks", ranks}});
  } catch (const Error&) {
  }
}

}  // namespace roundtable
