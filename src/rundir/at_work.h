// How jobs that share a folder know of each other where the file system has no locks: each keeps a small file there and
// changes it every few seconds.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace roundtable {

// Whether a file of this name is one by which a job says that it lives.
bool is_sign_of_work(const std::string& name);

// While this lives, a thread changes `folder`/.at-work-<host>-<pid>; the file is removed in the end. Times and clocks
// of machines are not compared: a job is alive if its file changes while somebody looks.
class AtWork {
 public:
  struct Timing {
    std::chrono::milliseconds every{2000};
    std::chrono::milliseconds watch{10000};  // how long a file without a change is looked at
  };

  // Throws Error (kBadInput), "folder: another job ...; `fix`", where another job's file changes, after looking for at
  // most timing.watch, and only if there is such a file. Removes files of dead jobs. Of two jobs that begin at the same
  // time at least one is refused.
  AtWork(const std::string& folder, const std::string& fix, Timing timing);
  AtWork(const std::string& folder, const std::string& fix) : AtWork(folder, fix, Timing()) {}
  ~AtWork();
  AtWork(const AtWork&) = delete;
  AtWork& operator=(const AtWork&) = delete;

 private:
  void beat();
  void run();
  void refuse_others() const;
  void stop();

  std::string folder_;
  std::string fix_;
  Timing timing_;
  std::string path_;
  std::uint64_t beats_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace roundtable
