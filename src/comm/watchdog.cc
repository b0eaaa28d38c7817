// The watchdog's thread: signs of life over MPI messages that never block.
#include "comm/watchdog.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/activity.h"
#include "base/clock.h"
#include "base/log.h"
#include "comm/agree.h"
#include "comm/mpi/mailbox.h"

namespace roundtable {
namespace {

using nlohmann::json;

constexpr auto kTick = std::chrono::milliseconds(20);
constexpr auto kLastTick = std::chrono::milliseconds(1);
constexpr int kTag = 0;  // on a communicator of the watchdogs' own
constexpr double kSignSeconds = 1;
constexpr double kReportSeconds = 4;  // how long a failed rank gives rank 0 to report for it

constexpr const char* kLaneNames[kLanes] = {"", "its coordinator ", "its reader ", "its writer "};

// This process's state, as it is sent. Of a lane: {idle seconds, call in which it waits, name}.
json own_sign(const char* type) {
  json lanes = json::array();
  for (int lane = 0; lane < kLanes; ++lane) {
    const Activity seen = activity(static_cast<Lane>(lane));
    if (seen.watched) lanes.push_back({seen.idle_seconds, seen.waiting_in, kLaneNames[lane]});
  }
  return {{"type", type}, {"phase", present_phase()}, {"block", present_block()}, {"lanes", lanes}};
}

[[noreturn]] void wait_for_the_end() {
  while (true) std::this_thread::sleep_for(std::chrono::seconds(1));
}

[[noreturn]] void report_and_abort(ExitCode code, const std::string& line) {
  set_log_prefix("");
  log_error(line);
  abort_all_ranks(static_cast<int>(code));
}

}  // namespace

// One text on its way to a rank. A rank that is stopped takes none: nothing here waits for it.
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
    for (const std::string& host : hosts) peers_.push_back({host, steady_seconds(), own_sign("sign")});
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
    std::vector<SignOfLife> signs;
    for (int rank = 0; rank < size_; ++rank) {
      const Peer& peer = peers_[static_cast<std::size_t>(rank)];
      SignOfLife sign{peer.host, peer.sign["phase"], peer.sign["block"], silence(rank), 0, ""};
      if (const json& lanes = peer.sign["lanes"]; !lanes.empty()) {
        sign.idle_seconds = lanes[0][0];
        sign.waiting_in = lanes[0][1];
      }
      signs.push_back(std::move(sign));
    }
    return signs;
  }

  [[noreturn]] void end_all(ExitCode code, const std::string& line) {
    if (failed_.exchange(true)) wait_for_the_end();
    if (rank_ != 0) {
      try {
        Outbox box;
        box.post(*comm_, 0, json{{"type", "fault"}, {"code", static_cast<int>(code)}, {"line", line}}.dump());
        for (const double start = steady_seconds(); steady_seconds() - start < kReportSeconds; box.free()) std::this_thread::sleep_for(kTick);
      } catch (const Error&) {  // MPI is what failed: then we report ourselves
      }
    }
    report_and_abort(code, line);
  }

 private:
  struct Peer {
    std::string host;
    double heard = 0;
    json sign;
    bool left = false;
  };

  void run() {
    try {
      last_look_ = steady_seconds();
      while (!ended_) {
        std::this_thread::sleep_for(ending_ ? kLastTick : kTick);
        was_stopped();
        receive();
        rank_ == 0 ? lead() : follow();
      }
    } catch (const Error& error) {
      end_all(error.code(), fmt::format("{}: {}", where(), error.what()));
    }
  }

  // Whether this process was stopped since the last look, and perhaps the whole job (a batch system suspends some): that
  // was nobody's fault, and all are given time. A stop can fall between any two lines, so that whoever finds another
  // rank silent looks here again before it says so.
  bool was_stopped() {
    const double now = steady_seconds();
    const bool stopped = now - last_look_ > 1;
    last_look_ = now;
    if (!stopped) return false;
    const std::lock_guard lock(peers_mutex_);
    for (Peer& peer : peers_) peer.heard = now;
    no_checks_before_ = now + limit_;
    return true;
  }
  bool checks() const { return limit_ > 0 && steady_seconds() > no_checks_before_; }

  double sign_seconds() const { return limit_ > 0 ? std::min(kSignSeconds, limit_ / 4) : kSignSeconds; }

  // ---- mail ----

  void receive() {
    while (const std::optional<Mail> mail = take_mail(*comm_, kTag)) handle(mail->source, json::parse(mail->text));
  }

  void handle(int source, json mail) {
    const std::string type = mail["type"];
    if (type == "fault") end_all(static_cast<ExitCode>(mail["code"].get<int>()), mail["line"]);
    const std::lock_guard lock(peers_mutex_);
    Peer& peer = peers_[static_cast<std::size_t>(source)];
    peer.heard = steady_seconds();
    if (type == "end") {
      peer.left = true;
    } else {
      peer.sign = std::move(mail);
    }
  }

  // ---- rank 0 ----

  void lead() {
    {
      const std::lock_guard lock(peers_mutex_);
      peers_[0].heard = steady_seconds();
      peers_[0].sign = own_sign("sign");
    }
    if (steady_seconds() - last_sent_ >= sign_seconds()) {
      last_sent_ = steady_seconds();
      for (int rank = 1; rank < size_; ++rank) {
        if (outbox(rank).free()) outbox(rank).post(*comm_, rank, own_sign("sign").dump());
      }
    }
    if (checks()) check_all();
    const bool all_left = std::all_of(peers_.begin() + 1, peers_.end(), [](const Peer& peer) { return peer.left; });
    if (!ending_ || !all_left) return;
    for (int rank = 1; rank < size_; ++rank) {
      while (!outbox(rank).free()) std::this_thread::yield();
      outbox(rank).post(*comm_, rank, json{{"type", "end"}}.dump());
    }
    for (int rank = 1; rank < size_; ++rank) {
      while (!outbox(rank).free()) std::this_thread::yield();
    }
    ended_ = true;
  }

  void check_all() {
    for (int rank = 0; rank < size_; ++rank) {
      if (silence(rank) <= limit_ || left(rank)) continue;
      if (was_stopped()) return;
      end_all(ExitCode::kMachine, silence_line(rank));
    }
    double least_idle = 1e300;
    bool all_wait = true;
    for (int rank = 0; rank < size_; ++rank) {
      if (left(rank)) continue;
      for (const json& lane : peers_[static_cast<std::size_t>(rank)].sign["lanes"]) {
        const double idle = lane[0].get<double>();  // when it last gave a sign: of a silent rank no more is known
        const bool waits = !lane[1].get<std::string>().empty();
        least_idle = std::min(least_idle, idle);
        all_wait = all_wait && waits;
        if (waits || idle <= limit_) continue;
        if (was_stopped()) return;
        end_for_hang(rank, lane[2], idle);
      }
    }
    if (all_wait && least_idle > limit_ && !was_stopped()) end_for_deadlock(least_idle);
  }

  std::string silence_line(int rank) const {
    return fmt::format("{}: no sign of life for {:.0f} s (run.time_limit): the process is stopped, its node is gone or it "
                       "hangs inside MPI; the same command goes on",
                       place_of(rank), silence(rank));
  }

  [[noreturn]] void end_for_hang(int rank, const std::string& lane, double idle) {
    end_all(ExitCode::kMachine,
            fmt::format("{}: {}hangs: no step for {:.0f} s (run.time_limit); look at its file system and device, or raise "
                        "the limit; the same command goes on",
                        place_of(rank), lane, idle));
  }

  [[noreturn]] void end_for_deadlock(double idle) {
    std::string calls;
    for (int rank = 0; rank < std::min(size_, 4); ++rank) {
      const json& lanes = peers_[static_cast<std::size_t>(rank)].sign["lanes"];
      if (!lanes.empty()) calls += fmt::format("{}rank {} in {}", calls.empty() ? "" : ", ", rank, lanes[0][1].get<std::string>());
    }
    end_all(ExitCode::kMachine, fmt::format("{}: all ranks wait for one another for {:.0f} s (run.time_limit), {}; the "
                                            "same command goes on",
                                            place_of(0), idle, calls));
  }

  bool left(int rank) const { return peers_[static_cast<std::size_t>(rank)].left; }
  double silence(int rank) const { return steady_seconds() - peers_[static_cast<std::size_t>(rank)].heard; }

  std::string place_of(int rank) const {
    const Peer& peer = peers_[static_cast<std::size_t>(rank)];
    const std::string phase = peer.sign["phase"];
    const std::int64_t block = peer.sign["block"];
    return fmt::format("rank {} on {}, {}{}", rank, peer.host, phase.empty() ? "plan" : phase,
                       block >= 0 ? fmt::format(", block {}", block) : "");
  }

  // ---- the others ----

  void follow() {
    if (peers_[0].left) {
      while (!outbox(0).free()) std::this_thread::yield();
      ended_ = true;
      return;
    }
    // One after the other, so that the first can end the job before the next reports the same.
    const double patience = limit_ + 3 * std::min(rank_ - 1, 3);
    if (checks() && silence(0) > patience && !was_stopped() && !failed_.exchange(true)) {
      report_and_abort(ExitCode::kMachine, silence_line(0));
    }
    const bool due = ending_ || steady_seconds() - last_sent_ >= sign_seconds();
    if (said_goodbye_ || !due || !outbox(0).free()) return;
    last_sent_ = steady_seconds();
    said_goodbye_ = ending_;
    outbox(0).post(*comm_, 0, said_goodbye_ ? json{{"type", "end"}}.dump() : own_sign("sign").dump());
  }

  Outbox& outbox(int rank) { return outboxes_[static_cast<std::size_t>(rank)]; }

  std::unique_ptr<MpiCommunicator> comm_;
  int rank_;
  int size_;
  std::vector<Outbox> outboxes_;
  mutable std::mutex peers_mutex_;  // for writing, and for reading from other threads
  std::vector<Peer> peers_;
  std::atomic<double> limit_{0};
  std::atomic<bool> ending_{false};
  std::atomic<bool> failed_{false};
  bool ended_ = false;
  double last_look_ = 0;
  double no_checks_before_ = 0;
  bool said_goodbye_ = false;
  double last_sent_ = 0;
  std::thread thread_;
};

Watchdog::Watchdog(const MpiCommunicator& world) : thread_(std::make_unique<Thread>(world)) {}
Watchdog::~Watchdog() = default;
void Watchdog::set_time_limit(double seconds) { thread_->set_time_limit(seconds); }
std::vector<SignOfLife> Watchdog::signs() const { return thread_->signs(); }
void Watchdog::end_all(ExitCode code, const std::string& line) { thread_->end_all(code, line); }

}  // namespace roundtable
