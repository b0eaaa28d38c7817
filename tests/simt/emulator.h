// Runs CUDA kernels on one thread of a CPU: every thread of a block is a fiber that runs until it waits for others, at
// a shuffle, a vote or a barrier. Blocks run one after another. Launches take turns between threads (and blocks) in
// rising and in falling order: a kernel that depends on the order gives other results, or not those of the CPU's code.
//
// What a GPU leaves undefined, and does not report, is a Fault here; see README.md.
#pragma once

#include <cstdint>
#include <functional>
#include <source_location>
#include <stdexcept>

namespace simt {

constexpr unsigned kWarp = 32;

// A kernel breaks a rule of CUDA. what() names the rule and the line of the kernel.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

// Calls body() as each thread of each block. Throws Fault; the threads of that block are then left where they are.
void launch(const Index& blocks, const Index& threads, const std::function<void()>& body);

// What a thread of a kernel calls. All threads that `mask` names wait for each other; each gets the values of all lanes
// of its warp, of which those in `mask` are set. The array is valid until the thread waits again.
const std::uint64_t* exchange(std::uint32_t mask, std::uint64_t value, const std::source_location& place);

// Waits for all threads of the block.
void barrier(const std::source_location& place);

// Of the calling thread in its warp.
unsigned lane();

// Ends the calling thread and the launch.
void fail(const char* problem, const std::source_location& place);

}  // namespace simt

// What kernels read; set before a thread continues.
extern simt::Index threadIdx, blockIdx, blockDim, gridDim;
