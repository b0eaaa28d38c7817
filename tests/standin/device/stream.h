// Streams and events. Work of LibTorch and kernels of ours are done when they are started, after all that their stream
// has to do before them. Work that can be under way meanwhile (sums between ranks, copies to the host) is done at once,
// or, in the mode `late`, when something waits for it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/standin/device/clock.h"
#include "tests/standin/device/races.h"

namespace roundtable::standin {

// A piece of work: does it, and answers false where it must be asked again later. Called with the lock held.
using Work = std::function<bool()>;

struct Stream {
  int device = 0;
  int number = 0;  // in clocks
  Clock clock;     // of its newest work
  std::uint64_t started = 0;
  std::uint64_t done = 0;
  std::deque<Work> pending;  // numbers done + 1 to started
};

struct Event {
  int device = 0;
  Stream* stream = nullptr;  // null: never recorded
  std::uint64_t at = 0;
  Clock clock;
  int questions = 0;  // whether it is reached
};

using Lock = std::unique_lock<std::mutex>;

// For every use of streams and events.
Lock lock_streams();

Stream* make_stream(const Lock&, int device);
Stream* default_stream(const Lock&, int device);

// Work that may be under way while the host and other streams do something else.
void start(Lock& lock, Stream& stream, const std::vector<Access>& accesses, const std::string& what, Work work);

// A copy to host memory at `place` that the host does not wait for: `deliver` brings what the device has now.
void start_delivery(Lock& lock, Stream& stream, const std::vector<Access>& accesses, const std::string& what,
                    const void* place, std::function<void()> deliver);
void drop_deliveries(const Lock&, const void* place);  // the host memory is freed

// All that the stream has to do before its next work is done; the caller does that work after this call.
void start_now(Lock& lock, Stream& stream, const std::vector<Access>& accesses, const std::string& what);

void record(const Lock&, Event& event, Stream& stream);
void hold_back(Lock& lock, Stream& stream, const Event& event);
bool reached(Lock& lock, Event& event);

// The host waits.
void wait_for(Lock& lock, Stream& stream, std::uint64_t number);
void wait_for(Lock& lock, const Event& event);
void wait_for_device(Lock& lock, int device);

}  // namespace roundtable::standin
