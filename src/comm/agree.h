// Agreement: texts, results and errors that all ranks of a communicator share. Everything here is collective over
// `comm` and blocks until the result is in host memory.
//
// Who adds the rank to an error, who prints it, and who is silent:
//
//   Error         is thrown where the fault is found. Its line says what is wrong ("file: problem; fix") and not where:
//                 MPI, HDF5, io/ and all others add no rank.
//   AgreedError   comes out of run_on_root() and run_on_all(), on all ranks of `comm`, with the line of one of them.
//                 They add the place of that rank: "rank 3 on node07, tune, block 12: " (located() in base/activity.h).
//                 Before the first phase, lines speak of the user's input: run_on_root() adds nothing for rank 0, and
//                 "rank 3: " is added for any other rank. An AgreedError or a LocatedError that passes through here
//                 again keeps its line.
//   LocatedError  has its place in its line, but not all ranks of the job know of it: one group agreed on it, or a
//                 thread in the background found it.
//   Leaving in time (kStartAgain) is no fault: its line is the reason, and nobody adds a place.
//
// main() ends all three: of an AgreedError rank 0 prints the line, the others are silent, and all leave in order. Of a
// LocatedError, and of an Error to which it adds the place of this rank, it has the watchdog print the line once and
// end all ranks (Watchdog::end_all). An AgreedError of a smaller communicator than the world must therefore become a
// LocatedError before it gets there (phases/tune/stage_worker.cc). Exceptions of other types are never agreed on: they
// pass through on their rank, and main() ends the job.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace roundtable {

// The root's text, on every rank.
std::string broadcast_text(HostCommunicator& comm, std::string text, int root);

// The texts of all ranks, in rank order, on every rank.
std::vector<std::string> all_gather_text(HostCommunicator& comm, const std::string& text);

namespace detail {
std::string text_of_root(HostCommunicator& comm, int root, const std::function<std::string()>& work);
}  // namespace detail

// Runs `work` on the root alone and returns its result on every rank: nothing, a std::string, or any type that
// nlohmann::json converts to and from. If `work` throws an Error there, an AgreedError is thrown on every rank, with
// the same code, so that all can leave in order.
template <class Work>
auto run_on_root(HostCommunicator& comm, int root, Work&& work) {
  using Result = std::invoke_result_t<Work&>;
  if constexpr (std::is_void_v<Result>) {
    detail::text_of_root(comm, root, [&] { return work(), std::string(); });
  } else if constexpr (std::is_same_v<Result, std::string>) {
    return detail::text_of_root(comm, root, work);
  } else {
    const std::string text = detail::text_of_root(comm, root, [&] { return nlohmann::json(work()).dump(); });
    return nlohmann::json::parse(text).template get<Result>();
  }
}

// The same with rank 0 as the root.
template <class Work>
auto run_on_root(HostCommunicator& comm, Work&& work) {
  return run_on_root(comm, 0, work);
}

// Runs `work` on every rank, each on its own part. If it throws an Error on some ranks, an AgreedError is thrown on
// every rank, with the code and the line of the lowest of them.
void run_on_all(HostCommunicator& comm, const std::function<void()>& work);

}  // namespace roundtable
