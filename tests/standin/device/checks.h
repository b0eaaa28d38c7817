// What the stand-in finds wrong, and what it counts.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace roundtable::standin {

// A fault of the program: says what it is and where, and ends the process.
[[noreturn]] void fault(const std::string& what);

// A call stack on stderr. To be called in a signal handler, too.
void print_stack();

struct Counts {
  std::atomic<std::int64_t> operators{0};    // of LibTorch
  std::atomic<std::int64_t> kernels{0};      // of ours
  std::atomic<std::int64_t> sums{0};
  std::atomic<std::int64_t> messages{0};     // that were sent to another rank
  std::atomic<std::int64_t> host_waits{0};   // for a device
  std::atomic<std::int64_t> to_device{0};    // copies
  std::atomic<std::int64_t> from_device{0};
};
Counts& counts();

// A call that makes CUDA create its context on a device, which takes some hundred MB there.
void note_context(int device, const char* call);
bool has_context(int device);

}  // namespace roundtable::standin
