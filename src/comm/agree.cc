// What a rank tells the others about its work: a code, and a text or the line of an error.
#include "comm/agree.h"

#include "base/activity.h"
#include "base/error.h"

namespace roundtable {
namespace {

struct Outcome {
  ExitCode code = ExitCode::kOk;
  std::string text;
  bool located = false;  // an error's line says where it comes from
};

Outcome outcome_of(const std::function<std::string()>& work) {
  try {
    return {ExitCode::kOk, work(), false};
  } catch (const AgreedError& error) {
    return {error.code(), error.what(), true};
  } catch (const LocatedError& error) {
    return {error.code(), error.what(), true};
  } catch (const Error& error) {
    if (error.code() == ExitCode::kStartAgain) return {error.code(), error.what(), true};
    return {error.code(), located(error.what()), !present_phase().empty()};
  }
}

Outcome with_rank(Outcome outcome, const HostCommunicator& comm) {
  if (outcome.code != ExitCode::kOk && !outcome.located && comm.size() > 1) {
    outcome.text = fmt::format("rank {}: {}", comm.rank(), outcome.text);
  }
  return outcome;
}

}  // namespace

std::string broadcast_text(HostCommunicator& comm, std::string text, int root) {
  text.resize(static_cast<std::size_t>(comm.broadcast_value(std::ssize(text), root)));
  comm.broadcast({text.data(), std::ssize(text), ElementType::kU8}, root);
  return text;
}

std::vector<std::string> all_gather_text(HostCommunicator& comm, const std::string& text) {
  std::vector<std::string> texts;
  for (int root = 0; root < comm.size(); ++root) texts.push_back(broadcast_text(comm, text, root));
  return texts;
}

std::string detail::text_of_root(HostCommunicator& comm, int root, const std::function<std::string()>& work) {
  Outcome outcome;
  if (comm.rank() == root) outcome = root == 0 ? outcome_of(work) : with_rank(outcome_of(work), comm);
  const ExitCode code = comm.broadcast_value(outcome.code, root);
  std::string text = broadcast_text(comm, std::move(outcome.text), root);
  if (code != ExitCode::kOk) throw AgreedError(code, text);
  return text;
}

void run_on_all(HostCommunicator& comm, const std::function<void()>& work) {
  const Outcome mine = with_rank(outcome_of([&] { return work(), std::string(); }), comm);
  const std::vector<ExitCode> codes = comm.all_gather(mine.code);
  for (int rank = 0; rank < comm.size(); ++rank) {
    if (const ExitCode code = codes[static_cast<std::size_t>(rank)]; code != ExitCode::kOk) {
      throw AgreedError(code, broadcast_text(comm, mine.text, rank));
    }
  }
}

}  // namespace roundtable
