// Seconds of the steady clock, which is never set back: since an arbitrary start, and since an object was made.
#pragma once

#include <chrono>

namespace roundtable {

inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Stopwatch {
 public:
  double seconds() const { return steady_seconds() - start_; }

 private:
  double start_ = steady_seconds();
};

}  // namespace roundtable
