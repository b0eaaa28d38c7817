#include "tests/standin/device/memory.h"

#include <execinfo.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tests/standin/device/checks.h"
#include "tests/standin/device/settings.h"

namespace roundtable::standin {
namespace {

constexpr std::size_t kRange = std::size_t{64} << 30;  // of addresses per device
constexpr std::size_t kPage = 4096;

struct OneDevice {
  std::size_t next = 0;  // all above was never given out
  std::size_t used = 0;
  std::size_t peak = 0;
  std::multimap<std::size_t, char*> spare;  // by size
};

void on_crash(int signal_number, siginfo_t* info, void*);

struct Memory {
  Memory() : devices(static_cast<std::size_t>(std::max(1, settings().devices))) {
    closed = map(PROT_NONE);
    open = map(PROT_READ | PROT_WRITE);
    struct sigaction action {};
    action.sa_sigaction = on_crash;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
    void* frame = nullptr;
    backtrace(&frame, 1);  // loads a library at its first call, which a signal handler must not do
  }

  char* map(int access) const {
    void* found = mmap(nullptr, kRange * devices.size(), access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) fault("no addresses for the devices' memory");
    return static_cast<char*>(found);
  }

  std::mutex mutex;
  std::vector<OneDevice> devices;
  std::map<const void*, std::size_t> sizes;
  char* closed = nullptr;
  char* open = nullptr;
};

Memory& memory() {
  static auto* made = new Memory;  // never destroyed: tensors are freed until the very end
  return *made;
}

void on_crash(int signal_number, siginfo_t* info, void*) {
  const int device = device_of(info->si_addr);
  char line[160];
  const int length =
      device >= 0 ? std::snprintf(line, sizeof line, "stand-in, rank %d: host code touched memory of device %d\n",
                                  settings().rank, device)
                  : std::snprintf(line, sizeof line, "stand-in, rank %d: segmentation fault at %p\n", settings().rank,
                                  info->si_addr);
  if (write(STDERR_FILENO, line, static_cast<std::size_t>(length)) > 0) print_stack();
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

}  // namespace

void* allocate(int device, std::size_t bytes) {
  Memory& m = memory();
  const std::size_t size = std::max(kPage, (bytes + kPage - 1) / kPage * kPage);
  const std::lock_guard lock(m.mutex);
  OneDevice& d = m.devices[static_cast<std::size_t>(device)];
  if (size > settings().memory || d.used > settings().memory - size) return nullptr;
  char* pointer = nullptr;
  if (const auto found = d.spare.find(size); found != d.spare.end()) {
    pointer = found->second;
    d.spare.erase(found);
  } else {
    if (d.next + size > kRange) return nullptr;
    pointer = m.closed + static_cast<std::size_t>(device) * kRange + d.next;
    d.next += size;
  }
  m.sizes[pointer] = size;
  d.used += size;
  d.peak = std::max(d.peak, d.used);
  return pointer;
}

void release(void* pointer) {
  if (pointer == nullptr) return;
  Memory& m = memory();
  const std::lock_guard lock(m.mutex);
  const auto found = m.sizes.find(pointer);
  if (found == m.sizes.end()) fault("memory is freed that was never allocated, or twice");
  OneDevice& d = m.devices[static_cast<std::size_t>(device_of(pointer))];
  d.used -= found->second;
  d.spare.emplace(found->second, static_cast<char*>(pointer));
  madvise(opened(pointer), found->second, MADV_DONTNEED);
  m.sizes.erase(found);
}

int device_of(const void* pointer) {
  const Memory& m = memory();
  const auto* p = static_cast<const char*>(pointer);
  if (p < m.closed || p >= m.closed + kRange * m.devices.size()) return -1;
  return static_cast<int>(static_cast<std::size_t>(p - m.closed) / kRange);
}

void* opened(const void* pointer) {
  auto* p = static_cast<char*>(const_cast<void*>(pointer));
  return device_of(pointer) < 0 ? p : memory().open + (p - memory().closed);
}

std::size_t used_bytes(int device) {
  const std::lock_guard lock(memory().mutex);
  return memory().devices[static_cast<std::size_t>(device)].used;
}

std::size_t peak_bytes(int device) {
  const std::lock_guard lock(memory().mutex);
  return memory().devices[static_cast<std::size_t>(device)].peak;
}

}  // namespace roundtable::standin
