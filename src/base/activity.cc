// Atomics that the watched threads write and the watchdog reads.
#include "base/activity.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <utility>

#include "base/clock.h"

namespace roundtable {
namespace {

struct LaneState {
  std::atomic<bool> watched{false};
  std::atomic<const char*> waiting_in{nullptr};
  std::atomic<double> last_step{0};
};

LaneState lanes[kLanes];
thread_local LaneState* mine = nullptr;

std::mutex phase_mutex;
std::string phase_name;
std::atomic<std::int64_t> block_index{-1};
std::atomic<int> rank_number{0};

std::mutex gauge_mutex;
std::function<MemoryUse()> memory_gauge;

}  // namespace

void set_rank(int rank) { rank_number = rank; }

void set_memory_gauge(std::function<MemoryUse()> gauge) {
  const std::lock_guard lock(gauge_mutex);
  memory_gauge = std::move(gauge);
}

MemoryUse memory_use() {
  const std::lock_guard lock(gauge_mutex);
  return memory_gauge ? memory_gauge() : MemoryUse{};
}

void enter_phase(const std::string& phase) {
  const std::lock_guard lock(phase_mutex);
  phase_name = phase;
  block_index = -1;
}

void enter_block(std::int64_t block) { block_index = block; }

std::string present_phase() {
  const std::lock_guard lock(phase_mutex);
  return phase_name;
}

std::int64_t present_block() { return block_index; }

WatchedThread::WatchedThread(Lane lane) {
  RT_CHECK(mine == nullptr);
  mine = &lanes[static_cast<int>(lane)];
  mine->waiting_in = nullptr;
  mine->last_step = steady_seconds();
  mine->watched = true;
}

WatchedThread::~WatchedThread() {
  mine->watched = false;
  mine = nullptr;
}

void note_progress() {
  if (mine != nullptr) mine->last_step = steady_seconds();
}

WaitsForOthers::WaitsForOthers(const char* call) : around_(nullptr) {
  if (mine == nullptr) return;
  around_ = mine->waiting_in;
  mine->last_step = steady_seconds();
  mine->waiting_in = call;
}

WaitsForOthers::~WaitsForOthers() {
  if (mine == nullptr) return;
  mine->last_step = steady_seconds();
  mine->waiting_in = around_;
}

Activity activity(Lane lane) {
  const LaneState& state = lanes[static_cast<int>(lane)];
  const char* call = state.waiting_in;
  return {state.watched, call == nullptr ? "" : call, steady_seconds() - state.last_step};
}

std::string host_name() {
  char name[256] = "";
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "an unnamed host";
}

std::string where() {
  const bool coordinator = mine == &lanes[static_cast<int>(Lane::kCoordinator)];
  std::string text =
      fmt::format("{}rank {} on {}", coordinator ? "the coordinator, " : "", rank_number.load(), host_name());
  const std::string phase = present_phase();
  text += ", " + (phase.empty() ? "plan" : phase);
  const std::int64_t block = block_index;
  if (block >= 0 && !coordinator) text += fmt::format(", block {}", block);
  return text;
}

std::string located(const std::string& line) {
  return present_phase().empty() ? line : fmt::format("{}: {}", where(), line);
}

}  // namespace roundtable
