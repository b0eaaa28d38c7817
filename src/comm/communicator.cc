// Collectives over texts and errors, built on the four that a carrier provides.
#include "comm/communicator.h"

#include <cstring>
#include <optional>

#include "base/activity.h"
#include "base/error.h"

namespace roundtable {
namespace {

// What a rank tells the others about its work: a code, and the text or the error's line.
struct Outcome {
  int code = 0;
  std::string text;
};

Outcome outcome_of(const std::function<std::string()>& work) {
  try {
    return {0, work()};
  } catch (const AgreedError& error) {
    return {static_cast<int>(error.code()), error.what()};  // says already where it comes from
  } catch (const Error& error) {
    if (error.code() != ExitCode::kStartAgain) return {static_cast<int>(error.code()), located(error.what())};
    return {static_cast<int>(error.code()), error.what()};
  }
}

struct DoneSum final : PendingSum {
  bool poll() override { return true; }
  void wait() override {}
};

}  // namespace

std::unique_ptr<PendingSum> SelfCommunicator::start_all_reduce_sum(void*, std::int64_t, ElementType) {
  return std::make_unique<DoneSum>();
}

void SelfCommunicator::all_gather(const void* mine, std::int64_t bytes, void* gathered) {
  std::memcpy(gathered, mine, static_cast<std::size_t>(bytes));
}

void SelfCommunicator::exchange(const void* mine, void* theirs, std::int64_t bytes, int) {
  std::memcpy(theirs, mine, static_cast<std::size_t>(bytes));
}

std::string broadcast_text(Communicator& comm, std::string text, int root) {
  std::int64_t size = static_cast<std::int64_t>(text.size());
  comm.broadcast(&size, sizeof(size), root);
  text.resize(static_cast<std::size_t>(size));
  comm.broadcast(text.data(), size, root);
  return text;
}

std::vector<std::string> all_gather_text(Communicator& comm, const std::string& text) {
  std::vector<std::string> texts;
  for (int root = 0; root < comm.size(); ++root) {
    texts.push_back(broadcast_text(comm, root == comm.rank() ? text : std::string(), root));
  }
  return texts;
}

std::string run_on_root(Communicator& comm, const std::function<std::string()>& work) {
  Outcome outcome;
  if (comm.rank() == 0) outcome = outcome_of(work);
  comm.broadcast(&outcome.code, sizeof(outcome.code), 0);
  outcome.text = broadcast_text(comm, outcome.text, 0);
  if (outcome.code != 0) throw AgreedError(static_cast<ExitCode>(outcome.code), outcome.text);
  return outcome.text;
}

void run_on_all(Communicator& comm, const std::function<void()>& work) {
  const Outcome mine = outcome_of([&] {
    work();
    return std::string();
  });
  std::vector<int> codes(static_cast<std::size_t>(comm.size()));
  comm.all_gather(&mine.code, sizeof(mine.code), codes.data());
  for (int rank = 0; rank < comm.size(); ++rank) {
    if (codes[rank] == 0) continue;
    const std::string line = broadcast_text(comm, mine.text, rank);
    const bool rank_is_named = !present_phase().empty() || codes[rank] == static_cast<int>(ExitCode::kStartAgain);
    throw AgreedError(static_cast<ExitCode>(codes[rank]),
                      comm.size() > 1 && !rank_is_named ? fmt::format("rank {}: {}", rank, line) : line);
  }
}

}  // namespace roundtable
