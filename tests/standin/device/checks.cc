#include "tests/standin/device/checks.h"

#include <execinfo.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include "tests/standin/device/memory.h"
#include "tests/standin/device/settings.h"

namespace roundtable::standin {
namespace {

struct Contexts {
  std::mutex mutex;
  std::map<int, std::string> first_call;  // by device
};

Contexts& contexts() {
  static auto* made = new Contexts;  // never destroyed: calls come until the very end
  return *made;
}

// One JSON object per process, when it ends in order.
void write_report() {
  const Settings& s = settings();
  std::FILE* file = std::fopen((s.report + "." + std::to_string(s.rank)).c_str(), "w");
  if (file == nullptr) return;
  std::fprintf(file, "{\"contexts\": {");
  const char* comma = "";
  for (const auto& [device, call] : contexts().first_call) {
    std::fprintf(file, "%s\"%d\": \"%s\"", comma, device, call.c_str());
    comma = ", ";
  }
  const Counts& c = counts();
  std::fprintf(file, "}, \"operators\": %ld, \"kernels\": %ld, \"sums\": %ld, \"messages\": %ld, \"host_waits\": %ld, ",
               c.operators.load(), c.kernels.load(), c.sums.load(), c.messages.load(), c.host_waits.load());
  std::fprintf(file, "\"to_device\": %ld, \"from_device\": %ld, \"peak_bytes\": {", c.to_device.load(),
               c.from_device.load());
  comma = "";
  for (const auto& [device, call] : contexts().first_call) {
    std::fprintf(file, "%s\"%d\": %zu", comma, device, peak_bytes(device));
    comma = ", ";
  }
  std::fprintf(file, "}}\n");
  std::fclose(file);
}

}  // namespace

void print_stack() {
  void* frames[64];
  backtrace_symbols_fd(frames, backtrace(frames, 64), STDERR_FILENO);
}

void fault(const std::string& what) {
  std::fprintf(stderr, "stand-in, rank %d: %s\n", settings().rank, what.c_str());
  print_stack();
  std::abort();
}

Counts& counts() {
  static Counts made;
  return made;
}

void note_context(int device, const char* call) {
  const std::lock_guard lock(contexts().mutex);
  if (contexts().first_call.empty() && !settings().report.empty()) std::atexit(write_report);
  contexts().first_call.emplace(device, call);
}

bool has_context(int device) {
  const std::lock_guard lock(contexts().mutex);
  return contexts().first_call.count(device) > 0;
}

}  // namespace roundtable::standin
