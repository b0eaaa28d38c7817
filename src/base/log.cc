// "warning: rank 3: LINE" on stderr, in color on a terminal.
#include "base/log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string_view>

namespace roundtable {
namespace {

std::mutex mutex;
std::string prefix;

bool in_color() {
  static const bool color = [] {
    const char* terminal = std::getenv("TERM");
    return isatty(STDERR_FILENO) && terminal && std::string_view(terminal) != "dumb";
  }();
  return color;
}

// One call for the whole line, so that lines of several ranks do not mix. What stderr does not take is lost: a log that
// cannot be written is no reason to end a run.
void write_line(const char* level, const char* color, const std::string& line) {
  const std::lock_guard lock(mutex);
  const std::string text = in_color() ? fmt::format("{}{}\033[m: {}{}\n", color, level, prefix, line)
                                      : fmt::format("{}: {}{}\n", level, prefix, line);
  std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace

void set_log_prefix(const std::string& text) {
  const std::lock_guard lock(mutex);
  prefix = text;
}

void log_info(const std::string& line) { write_line("info", "\033[32m", line); }
void log_warning(const std::string& line) { write_line("warning", "\033[33m\033[1m", line); }
void log_error(const std::string& line) { write_line("error", "\033[31m\033[1m", line); }

}  // namespace roundtable
