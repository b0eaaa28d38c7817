// A thread, its error, and where it comes from.
#include "run/background_write.h"

#include <fmt/format.h>

#include <chrono>
#include <string>
#include <utility>

#include "base/activity.h"
#include "base/error.h"

namespace roundtable {

void WriteBehind::start(std::function<void()> work) {
  RT_CHECK(!work_.valid());
  // The block of now: when an error shows, a later one is at work.
  work_ = std::async(std::launch::async, [work = std::move(work), place = where()] {
    const WatchedThread watched(Lane::kWriter);
    try {
      work();
    } catch (const AgreedError&) {
      throw;
    } catch (const Error& error) {
      throw LocatedError(error.code(), fmt::format("{}: {}", place, error.what()));
    }
  });
}

void WriteBehind::check() const {
  if (!work_.valid() || work_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return;
  try {
    work_.get();
  } catch (const AgreedError&) {
    return;
  }
}

void WriteBehind::finish() {
  if (!work_.valid()) return;
  const WaitsForOthers waits("the end of a write");  // the thread that writes is watched itself
  std::exchange(work_, {}).get();
}

}  // namespace roundtable
