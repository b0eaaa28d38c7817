// posix_spawn and two pipes.
#include "device/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/error.h"

extern char** environ;

namespace roundtable {
namespace {

constexpr std::size_t kKept = 64 << 10;
constexpr int kWaitMilliseconds = 200;

class Pipe {
 public:
  Pipe() {
    if (pipe2(ends_.data(), O_CLOEXEC) != 0) throw machine_error("pipe", std::strerror(errno));
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  int end(std::size_t which) const { return ends_[which]; }
  void close_end(std::size_t which) {
    if (ends_[which] >= 0) close(ends_[which]);
    ends_[which] = -1;
  }
  bool is_open() const { return ends_[0] >= 0; }

  // Adds what can be read to `text`; closes the pipe at its end.
  void read_some(std::string& text) {
    std::array<char, 4096> buffer{};
    const ssize_t got = read(ends_[0], buffer.data(), buffer.size());
    if (got > 0) text.append(buffer.data(), static_cast<std::size_t>(got));
    if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) close_end(0);
  }

 private:
  std::array<int, 2> ends_{-1, -1};
};

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

// The present environment without the keys of `extra`, and `extra`.
std::vector<std::string> environment(const std::vector<std::string>& extra) {
  std::vector<std::string> all = extra;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string key = text.substr(0, text.find('=') + 1);
    bool replaced = false;
    for (const std::string& other : extra) replaced = replaced || other.starts_with(key);
    if (!replaced) all.push_back(text);
  }
  return all;
}

pid_t start(std::vector<std::string> command, const std::vector<std::string>& extra, const Pipe& out,
            const Pipe& error) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out.end(1), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, error.end(1), STDERR_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  std::vector<std::string> variables = environment(extra);
  pid_t child = 0;
  const int failed = posix_spawnp(&child, command.front().c_str(), &actions, nullptr, pointers(command).data(),
                                  pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) throw machine_error(command.front(), fmt::format("cannot be started: {}", std::strerror(failed)));
  return child;
}

// Ends the program where the caller's functions throw.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  ~Child() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    wait();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  int wait() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = 0;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }

 private:
  pid_t pid_;
};

void take_lines(std::string& text, const std::function<void(const std::string&)>& on_line) {
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n')) {
    on_line(text.substr(0, end));
    text.erase(0, end + 1);
  }
}

}  // namespace

ChildResult run_child(const std::vector<std::string>& command, const std::vector<std::string>& extra,
                      const std::function<void(const std::string&)>& on_line, const std::function<void()>& on_wait) {
  Pipe out, error;
  Child child(start(command, extra, out, error));
  out.close_end(1);
  error.close_end(1);
  std::string line;
  ChildResult result;
  while (out.is_open() || error.is_open()) {
    std::array<pollfd, 2> polled{{{out.end(0), POLLIN, 0}, {error.end(0), POLLIN, 0}}};
    poll(polled.data(), polled.size(), kWaitMilliseconds);
    if (polled[0].revents != 0) out.read_some(line);
    if (polled[1].revents != 0) error.read_some(result.error);
    take_lines(line, on_line);
    if (result.error.size() > 2 * kKept) result.error.erase(0, result.error.size() - kKept);
    on_wait();
  }
  if (!line.empty()) on_line(line);
  result.exit_code = child.wait();
  return result;
}

}  // namespace roundtable
