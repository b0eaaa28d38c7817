// Writing our file and watching those of others.
#include "rundir/at_work.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "base/activity.h"
#include "base/error.h"
#include "io/posix.h"

namespace roundtable {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = ".at-work-";

// Every look opens the file again: network file systems then ask the server for what others have written.
std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Where a process id means something: this start of this machine, and the container in it.
std::string id_space() {
  std::ifstream boot("/proc/sys/kernel/random/boot_id");
  std::string id;
  boot >> id;
  std::error_code ignored;
  return id + " " + fs::read_symlink("/proc/self/ns/pid", ignored).string();
}

// "ID-SPACE\nPID\nBEATS\n" of a process that is gone for certain.
bool is_dead(const std::string& text) {
  const std::string space = id_space() + "\n";
  if (!text.starts_with(space)) return false;
  const pid_t process = std::atoi(text.c_str() + space.size());
  return process > 0 && process != ::getpid() && ::kill(process, 0) != 0 && errno == ESRCH;
}

std::map<fs::path, std::string> files_of_others(const std::string& folder, const std::string& own) {
  std::map<fs::path, std::string> files;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    const fs::path& path = entry.path();
    if (is_sign_of_work(path.filename().string()) && path != own) files[path] = text_of(path);
  }
  return files;
}

}  // namespace

bool is_sign_of_work(const std::string& name) { return name.starts_with(kPrefix); }

AtWork::AtWork(const std::string& folder, const std::string& fix, Timing timing)
    : folder_(folder),
      fix_(fix),
      timing_(timing),
      path_(fmt::format("{}/{}{}-{}", folder, kPrefix, host_name(), ::getpid())) {
  beat();  // before anybody is looked for: then of two that begin together at least one sees the other
  thread_ = std::thread([this] { run(); });
  try {
    refuse_others();
  } catch (...) {
    stop();
    throw;
  }
}

AtWork::~AtWork() { stop(); }

void AtWork::stop() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  thread_.join();
  ::unlink(path_.c_str());
}

void AtWork::run() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, timing_.every, [this] { return ending_; })) {
    lock.unlock();
    beat();
    lock.lock();
  }
}

// A beat that cannot be written is no fault of this run: the next one may succeed.
void AtWork::beat() {
  const UniqueFd file(::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  const std::string text = fmt::format("{}\n{}\n{:020}\n", id_space(), ::getpid(), ++beats_);
  if (file.is_open()) write_whole(file.get(), text.data(), text.size());
}

void AtWork::refuse_others() const {
  std::map<fs::path, std::string> seen = files_of_others(folder_, path_);
  for (auto other = seen.begin(); other != seen.end();) {
    if (!is_dead(other->second)) {
      ++other;
      continue;
    }
    ::unlink(other->first.c_str());
    other = seen.erase(other);
  }
  const auto start = std::chrono::steady_clock::now();
  while (!seen.empty() && std::chrono::steady_clock::now() - start < timing_.watch) {
    std::this_thread::sleep_for(timing_.every / 4);
    for (const auto& [path, text] : seen) {
      std::error_code ignored;
      if (text_of(path) == text || !fs::exists(path, ignored)) continue;
      throw bad_input(folder_, fmt::format("another job is at work here ({} changes)", path.filename().string()), fix_);
    }
  }
  for (const auto& [path, text] : seen) ::unlink(path.c_str());
}

}  // namespace roundtable
