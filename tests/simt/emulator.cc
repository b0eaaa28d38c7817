// The threads of a block take turns here; emulator.h says by which rules.
#include "emulator.h"

#include <link.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"

simt::Index threadIdx, blockIdx, blockDim, gridDim;

namespace simt {
namespace {

constexpr unsigned kMostThreads = 1024;  // of a block, on every GPU

enum class State { kReady, kExchange, kBarrier, kReturned };

// A thread of a block.
struct Lane {
  Fiber fiber;
  Index thread;
  unsigned number = 0;  // in its block
  State state = State::kReady;
  std::uint32_t mask = 0;     // of the exchange that it waits for
  std::uint64_t value = 0;
  std::source_location place;  // where it waits
};

struct Warp {
  std::uint64_t values[kWarp];
};

// The block that runs. There is one at a time.
struct Block {
  const std::function<void()>* body = nullptr;
  std::vector<std::unique_ptr<Lane>> lanes;  // as many as the largest block had
  std::vector<Warp> warps;
  unsigned threads = 0;
  bool falling = false;
  Lane* running = nullptr;
  std::string fault;  // that the running lane has met
};

Block block;
unsigned launches = 0;

std::string at(const std::source_location& place) {
  const std::string file = place.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(place.line());
}

bool same(const std::source_location& a, const std::source_location& b) {
  if (a.line() != b.line() || a.column() != b.column()) return false;
  return a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0;  // nearly always the first
}

void run_body() {
  (*block.body)();
  block.running->state = State::kReturned;
  block.running->fiber.yield();
}

// Fills the variables of __shared__ with ones: as floats they are no numbers. These variables are the only ones of this
// program that are thread_local (device/cuda_runtime.h), so that they lie together.
void spoil_shared_memory() {
  dl_iterate_phdr(
      [](dl_phdr_info* program, std::size_t, void*) {
        for (int i = 0; i < program->dlpi_phnum; ++i) {
          if (program->dlpi_phdr[i].p_type != PT_TLS || program->dlpi_tls_data == nullptr) continue;
          std::memset(program->dlpi_tls_data, 0xff, program->dlpi_phdr[i].p_memsz);
        }
        return 1;  // the first one is the program itself; no library's variables are touched
      },
      nullptr);
}

void start_block() {
  spoil_shared_memory();
  block.fault.clear();
  for (unsigned i = 0; i < block.threads; ++i) {
    Lane& lane = *block.lanes[i];
    lane.number = i;
    lane.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    lane.state = State::kReady;
    lane.fiber.start(run_body);
  }
}

// Whether a lane of the warp was there to run.
bool run_ready(unsigned first, unsigned size) {
  bool ran = false;
  for (unsigned i = 0; i < size; ++i) {
    Lane& lane = *block.lanes[first + (block.falling ? size - 1 - i : i)];
    if (lane.state != State::kReady) continue;
    block.running = &lane;
    threadIdx = lane.thread;
    lane.fiber.resume();
    if (!block.fault.empty()) throw Fault(block.fault);
    ran = true;
  }
  return ran;
}

// Whether all lanes that `lane` names wait where it does. Throws where they never will.
bool all_are_there(const Lane& lane, unsigned first, unsigned size) {
  bool all = true;
  for (unsigned i = 0; i < kWarp; ++i) {
    if ((lane.mask >> i & 1) == 0) continue;
    if (i >= size) throw Fault(at(lane.place) + ": the mask names a lane beyond the block");
    const Lane& other = *block.lanes[first + i];
    if (other.state == State::kReturned) throw Fault(at(lane.place) + ": a lane that the mask names has returned");
    if (other.state != State::kExchange) {
      all = false;  // it may wait at a barrier; run_block() sees whether that ever ends
    } else if (!same(other.place, lane.place)) {
      throw Fault(at(lane.place) + ": a lane that the mask names waits elsewhere, at " + at(other.place));
    } else if (other.mask != lane.mask) {
      throw Fault(at(lane.place) + ": a lane that the mask names has another mask");
    }
  }
  return all;
}

// Whether lanes of the warp have exchanged their values.
bool exchange_values(unsigned first, unsigned size) {
  bool exchanged = false;
  for (unsigned i = 0; i < size; ++i) {
    const Lane& lane = *block.lanes[first + i];
    if (lane.state != State::kExchange || !all_are_there(lane, first, size)) continue;
    const std::uint32_t mask = lane.mask;
    for (unsigned j = 0; j < size; ++j) {
      if ((mask >> j & 1) == 0) continue;
      Lane& one = *block.lanes[first + j];
      block.warps[first / kWarp].values[j] = one.value;
      one.state = State::kReady;
    }
    exchanged = true;
  }
  return exchanged;
}

// All threads wait at a barrier.
void leave_barrier() {
  const std::source_location& place = block.lanes[0]->place;
  for (unsigned i = 0; i < block.threads; ++i) {
    Lane& lane = *block.lanes[i];
    if (!same(lane.place, place)) {
      throw Fault(at(place) + ": __syncthreads() while another thread waits at " + at(lane.place));
    }
    lane.state = State::kReady;
  }
}

// Whether all threads have returned, of a block in which none can run before others have met at a barrier.
bool is_complete() {
  unsigned returned = 0;
  const Lane *exchanging = nullptr, *waiting = nullptr;
  for (unsigned i = 0; i < block.threads; ++i) {
    const Lane& lane = *block.lanes[i];
    if (lane.state == State::kReturned) ++returned;
    if (lane.state == State::kExchange) exchanging = &lane;
    if (lane.state == State::kBarrier) waiting = &lane;
  }
  if (exchanging != nullptr) throw Fault(at(exchanging->place) + ": a lane that the mask names waits at a barrier");
  if (waiting != nullptr && returned > 0) {
    throw Fault(at(waiting->place) + ": __syncthreads() where a thread of the block has returned");
  }
  return returned == block.threads;
}

void run_block() {
  start_block();
  const unsigned warps = (block.threads + kWarp - 1) / kWarp;
  while (true) {
    for (unsigned w = 0; w < warps; ++w) {
      const unsigned first = (block.falling ? warps - 1 - w : w) * kWarp;
      const unsigned size = std::min(kWarp, block.threads - first);
      while (run_ready(first, size) || exchange_values(first, size)) {}
    }
    if (is_complete()) return;
    leave_barrier();
  }
}

}  // namespace

void launch(const Index& blocks, const Index& threads, const std::function<void()>& body) {
  const std::uint64_t count = std::uint64_t{threads.x} * threads.y * threads.z;
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) throw Fault("a launch of no blocks");
  if (count == 0 || count > kMostThreads) throw Fault("a launch of " + std::to_string(count) + " threads per block");
  block.body = &body;
  block.threads = static_cast<unsigned>(count);
  block.falling = ++launches % 2 == 0;
  block.warps.resize((block.threads + kWarp - 1) / kWarp);
  while (block.lanes.size() < block.threads) block.lanes.push_back(std::make_unique<Lane>());
  gridDim = blocks;
  blockDim = threads;
  const unsigned all = blocks.x * blocks.y * blocks.z;
  for (unsigned i = 0; i < all; ++i) {
    const unsigned b = block.falling ? all - 1 - i : i;
    blockIdx = {b % blocks.x, b / blocks.x % blocks.y, b / blocks.x / blocks.y};
    run_block();
  }
}

const std::uint64_t* exchange(std::uint32_t mask, std::uint64_t value, const std::source_location& place) {
  Lane& self = *block.running;
  if ((mask >> lane() & 1) == 0) fail("the mask does not name the lane itself", place);
  self.state = State::kExchange;
  self.mask = mask;
  self.value = value;
  self.place = place;
  self.fiber.yield();
  return block.warps[self.number / kWarp].values;
}

void barrier(const std::source_location& place) {
  Lane& self = *block.running;
  self.state = State::kBarrier;
  self.place = place;
  self.fiber.yield();
}

unsigned lane() { return block.running->number % kWarp; }

void fail(const char* problem, const std::source_location& place) {
  block.fault = at(place) + ": " + problem;
  block.running->fiber.yield();  // and is never resumed
}

}  // namespace simt
