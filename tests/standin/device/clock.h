// Which work of which stream is known to be done before something: a vector clock over the streams of this process.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace roundtable::standin {

// A piece of work: number `tick` of its stream.
struct Moment {
  int stream = 0;
  std::uint64_t tick = 0;  // 0: never
};

class Clock {
 public:
  bool covers(const Moment& moment) const { return moment.tick <= of(moment.stream); }

  void join(const Clock& other) {
    ticks_.resize(std::max(ticks_.size(), other.ticks_.size()));
    for (std::size_t i = 0; i < other.ticks_.size(); ++i) ticks_[i] = std::max(ticks_[i], other.ticks_[i]);
  }

  // The next piece of work of a stream.
  Moment advance(int stream) {
    ticks_.resize(std::max(ticks_.size(), static_cast<std::size_t>(stream) + 1));
    return {stream, ++ticks_[static_cast<std::size_t>(stream)]};
  }

 private:
  std::uint64_t of(int stream) const {
    return static_cast<std::size_t>(stream) < ticks_.size() ? ticks_[static_cast<std::size_t>(stream)] : 0;
  }

  std::vector<std::uint64_t> ticks_;
};

}  // namespace roundtable::standin
