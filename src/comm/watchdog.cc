// The watchdog's thread: signs of life travel as MPI messages that never block.
#include "comm/watchdog.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "base/activity.h"
#include "base/clock.h"
#include "base/log.h"
#include "comm/agree.h"
#include "comm/link_check.h"
#include "comm/mpi/mailbox.h"
#include "comm/signs_of_life.h"

namespace roundtable {
namespace {

using nlohmann::json;

constexpr auto kTick = std::chrono::milliseconds(20);
constexpr auto kLastTick = std::chrono::milliseconds(1);
constexpr int kTag = 0;  // on a communicator of the watchdogs' own
constexpr double kSignSeconds = 1;
constexpr double kReportSeconds = 4;  // how long a failed rank gives rank 0 to report for it
constexpr double kCauseSeconds = 2;   // how long a broken link waits for the report of the rank that failed behind it

// A message is {"type": "sign_of_life", ...to_json()}, {"type": "end"}, or {"type": "fault", "code", "line"}.
std::string sign_message() {
  json message = to_json(own_sign());
  message["type"] = "sign_of_life";
  return message.dump();
}
std::string end_message() { return json{{"type", "end"}}.dump(); }

[[noreturn]] void wait_for_the_end() {
  while (true) std::this_thread::sleep_for(std::chrono::seconds(1));
}

[[noreturn]] void report_and_abort(ExitCode code, const std::string& line) {
  set_log_prefix("");
  log_error(line);
  abort_all_ranks(static_cast<int>(code));
}

}  // namespace

// One text on its way to a rank. Nothing here waits for it to arrive: a rank that is stopped receives nothing.
class Watchdog::Outbox {
 public:
  bool free() {
    int done = 1;
    if (request_ != MPI_REQUEST_NULL) check_mpi(MPI_Test(&request_, &done, MPI_STATUS_IGNORE), "MPI_Test");
    return done != 0;
  }
  void post(const MpiCommunicator& comm, int rank, std::string text) {
    text_ = std::move(text);
    check_mpi(MPI_Isend(text_.data(), static_cast<int>(text_.size()), MPI_CHAR, rank, kTag, comm.native(), &request_),
              "MPI_Isend");
  }

 private:
  std::string text_;
  MPI_Request request_ = MPI_REQUEST_NULL;
};

class Watchdog::Thread {
 public:
  explicit Thread(const MpiCommunicator& world)
      : comm_(world.duplicate()), rank_(world.rank()), size_(world.size()), outboxes_(static_cast<std::size_t>(size_)) {
    const std::vector<std::string> hosts = all_gather_text(*comm_, host_name());
    for (const std::string& host : hosts) {
      SignOfLife& peer = peers_.emplace_back(own_sign());
      peer.host = host;
      peer.heard = steady_seconds();
    }
    thread_ = std::thread([this] { run(); });
  }

  ~Thread() {
    ending_ = true;
    const WaitsForOthers waits("the end of all ranks");
    thread_.join();
  }

  void set_time_limit(double seconds) { limit_ = seconds; }

  std::vector<SignOfLife> signs() const {
    const std::lock_guard lock(peers_mutex_);
    return peers_;
  }

  [[noreturn]] void end_all(ExitCode code, const std::string& line) {
    if (failed_.exchange(true)) wait_for_the_end();
    if (rank_ != 0) {
      try {
        Outbox box;
        box.post(*comm_, 0, json{{"type", "fault"}, {"code", static_cast<int>(code)}, {"line", line}}.dump());
        for (const double start = steady_seconds(); steady_seconds() - start < kReportSeconds; box.free()) {
          std::this_thread::sleep_for(kTick);
        }
      } catch (const Error&) {  // MPI is what failed: then we report ourselves
      }
    }
    report_and_abort(code, line);
  }

 private:
  void run() {
    try {
      last_look_ = steady_seconds();
      while (!ended_) {
        std::this_thread::sleep_for(ending_ ? kLastTick : kTick);
        was_stopped();
        receive();
        check_links();
        rank_ == 0 ? lead() : follow();
      }
    } catch (const Error& error) {
      end_all(error.code(), fmt::format("{}: {}", where(), error.what()));
    }
  }

  // Whether this process was stopped since the last look, and perhaps the whole job with it (some batch systems suspend
  // jobs). Then no rank is at fault for its silence, and all are given time. A process can be stopped between any two
  // lines: whoever finds a fault asks here again before it reports one.
  bool was_stopped() {
    const double now = steady_seconds();
    const bool stopped = now - last_look_ > 1;
    last_look_ = now;
    if (!stopped) return false;
    const std::lock_guard lock(peers_mutex_);
    for (SignOfLife& peer : peers_) peer.heard = now;
    no_checks_before_ = now + limit_;
    return true;
  }
  bool checks() const { return limit_ > 0 && steady_seconds() > no_checks_before_; }

  double sign_seconds() const { return limit_ > 0 ? std::min(kSignSeconds, limit_ / 4) : kSignSeconds; }

  // A link breaks because the rank behind it has failed, and that rank's own report says more.
  void check_links() {
    const double now = steady_seconds();
    if (link_fault_ && now > link_fault_at_ + kCauseSeconds) {
      end_all(ExitCode::kMachine, fmt::format("{}: {}", where(), *link_fault_));
    }
    if (link_fault_ || now < links_checked_at_ + kSignSeconds) return;
    links_checked_at_ = now;
    link_fault_ = LinkCheck::find_fault();
    link_fault_at_ = now;
  }

  // ---- mail ----

  void receive() {
    while (const std::optional<Mail> mail = take_mail(*comm_, kTag)) handle(mail->source, json::parse(mail->text));
  }

  void handle(int source, const json& mail) {
    const std::string type = mail["type"];
    if (type == "fault") end_all(static_cast<ExitCode>(mail["code"].get<int>()), mail["line"]);
    const std::lock_guard lock(peers_mutex_);
    RT_CHECK(type == "sign_of_life" || type == "end");
    SignOfLife& peer = peers_[static_cast<std::size_t>(source)];
    peer.heard = steady_seconds();
    peer.left = type == "end";
    if (!peer.left) read_sign(mail, peer);
  }

  // ---- rank 0 ----

  void lead() {
    {
      const std::lock_guard lock(peers_mutex_);
      read_sign(to_json(own_sign()), peers_[0]);
      peers_[0].heard = steady_seconds();
    }
    if (steady_seconds() - last_sent_ >= sign_seconds()) {
      last_sent_ = steady_seconds();
      for (int rank = 1; rank < size_; ++rank) {
        if (outbox(rank).free()) outbox(rank).post(*comm_, rank, sign_message());
      }
    }
    if (checks()) check_all();
    const bool all_left = std::all_of(peers_.begin() + 1, peers_.end(), [](const auto& peer) { return peer.left; });
    if (!ending_ || !all_left) return;
    for (int rank = 1; rank < size_; ++rank) {
      while (!outbox(rank).free()) std::this_thread::yield();
      outbox(rank).post(*comm_, rank, end_message());
    }
    for (int rank = 1; rank < size_; ++rank) {
      while (!outbox(rank).free()) std::this_thread::yield();
    }
    ended_ = true;
  }

  void check_all() {
    const std::optional<std::string> fault = find_fault(peers_, steady_seconds(), limit_);
    if (fault && !was_stopped()) end_all(ExitCode::kMachine, *fault);
  }

  // ---- the others ----

  void follow() {
    if (peers_[0].left) {
      while (!outbox(0).free()) std::this_thread::yield();
      ended_ = true;
      return;
    }
    // One rank after the other, so that the first ends the job before the next reports the same fault.
    const double patience = limit_ + 3 * std::min(rank_ - 1, 3);
    const double now = steady_seconds();
    if (checks() && peers_[0].age(now) > patience && !was_stopped() && !failed_.exchange(true)) {
      report_and_abort(ExitCode::kMachine, silence_line(0, peers_[0], now));
    }
    const bool due = ending_ || steady_seconds() - last_sent_ >= sign_seconds();
    if (said_goodbye_ || !due || !outbox(0).free()) return;
    last_sent_ = steady_seconds();
    said_goodbye_ = ending_;
    outbox(0).post(*comm_, 0, said_goodbye_ ? end_message() : sign_message());
  }

  Outbox& outbox(int rank) { return outboxes_[static_cast<std::size_t>(rank)]; }

  std::unique_ptr<MpiCommunicator> comm_;
  int rank_;
  int size_;
  std::vector<Outbox> outboxes_;
  mutable std::mutex peers_mutex_;  // for writing, and for reading from other threads
  std::vector<SignOfLife> peers_;   // what this rank has heard: on rank 0 of all, on the others of rank 0
  std::atomic<double> limit_{0};
  std::atomic<bool> ending_{false};
  std::atomic<bool> failed_{false};
  bool ended_ = false;
  double last_look_ = 0;
  double no_checks_before_ = 0;
  bool said_goodbye_ = false;
  double last_sent_ = 0;
  double links_checked_at_ = 0;
  std::optional<std::string> link_fault_;
  double link_fault_at_ = 0;
  std::thread thread_;
};

Watchdog::Watchdog(const MpiCommunicator& world) : thread_(std::make_unique<Thread>(world)) {}
Watchdog::~Watchdog() = default;
void Watchdog::set_time_limit(double seconds) { thread_->set_time_limit(seconds); }
std::vector<SignOfLife> Watchdog::signs() const { return thread_->signs(); }
void Watchdog::end_all(ExitCode code, const std::string& line) { thread_->end_all(code, line); }

}  // namespace roundtable
