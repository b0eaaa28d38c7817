// Signal handlers that set a flag, and a deadline.
#include "base/stop_signal.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/error.h"

namespace roundtable {
namespace {

std::atomic<int> first_signal{0};
std::atomic<double> first_signal_time{1e300};  // far ahead until handle() has stored it
std::atomic<double> start_time{0};
std::atomic<double> time_limit{0};
char notice[512];
std::atomic<std::size_t> notice_size{0};

static_assert(std::atomic<double>::is_always_lock_free && std::atomic<int>::is_always_lock_free, "used in a handler");

// clock_gettime may be called in a handler; std::chrono does not promise that.
double now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void handle(int signal) {
  int none = 0;
  if (first_signal.compare_exchange_strong(none, signal)) {
    first_signal_time = now();
    // What stderr does not take is lost: a line that cannot be written is no reason to do anything else.
    if (notice_size > 0 && write(STDERR_FILENO, notice, notice_size) < 0) return;
  } else if (now() - first_signal_time > 1) {
    _exit(static_cast<int>(ExitCode::kStartAgain));
  }
}

void listen_for(int signal) {
  struct sigaction action {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;
  sigaction(signal, &action, nullptr);
}

}  // namespace

void listen_for_stop_signals() {
  start_time = now();
  listen_for(SIGUSR1);
  listen_for(SIGTERM);
}

void listen_for_ctrl_c() {
  struct sigaction before {};
  // A shell starts what runs in its background so that Ctrl-C does not reach it.
  if (sigaction(SIGINT, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) listen_for(SIGINT);
}

void set_stop_notice(const std::string& line) {
  const std::string text = line.empty() ? "" : line + "\n";
  notice_size = 0;
  std::memcpy(notice, text.data(), std::min(text.size(), sizeof notice));
  notice_size = std::min(text.size(), sizeof notice);
}

void leave_after(double seconds) { time_limit = seconds; }

std::string stop_reason() {
  if (const int signal = first_signal) {
    return signal == SIGUSR1 ? "SIGUSR1" : signal == SIGINT ? "Ctrl-C" : "SIGTERM";
  }
  if (time_limit > 0 && now() - start_time > time_limit) return "run.max_time";
  return "";
}

}  // namespace roundtable
