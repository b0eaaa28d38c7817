// The communicator of one rank alone.
#include "comm/communicator.h"

#include <cstring>
#include <numeric>

#include "base/error.h"

namespace roundtable {
namespace {

struct DoneSum final : PendingSum {
  bool poll() override { return true; }
  void wait() override {}
};

}  // namespace

void check_all_to_all(HostSpan mine, const std::vector<std::int64_t>& send, HostSpan theirs,
                      const std::vector<std::int64_t>& receive, int size) {
  const auto sum = [](const std::vector<std::int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  };
  RT_CHECK(std::ssize(send) == size && std::ssize(receive) == size && mine.type == theirs.type);
  RT_CHECK(sum(send) == mine.count && sum(receive) == theirs.count);
}

void keep_own_part(HostSpan mine, const std::vector<std::int64_t>& send, HostSpan theirs,
                   const std::vector<std::int64_t>& receive, int rank) {
  const auto offset = [&](const std::vector<std::int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.begin() + rank, std::int64_t{0}) *
           static_cast<std::int64_t>(size_of(mine.type));
  };
  const auto own = static_cast<std::size_t>(rank);
  RT_CHECK(send[own] == receive[own]);
  if (send[own] == 0) return;
  std::memcpy(static_cast<char*>(theirs.data) + offset(receive), static_cast<char*>(mine.data) + offset(send),
              static_cast<std::size_t>(send[own]) * size_of(mine.type));
}

std::unique_ptr<PendingSum> SelfCommunicator::start_all_reduce_sum(HostSpan) { return std::make_unique<DoneSum>(); }

void SelfCommunicator::exchange(HostSpan mine, HostSpan theirs, int peer) {
  RT_CHECK(peer == 0 && mine.bytes() == theirs.bytes());
  std::memcpy(theirs.data, mine.data, static_cast<std::size_t>(mine.bytes()));
}

void SelfCommunicator::all_to_all(HostSpan mine, const std::vector<std::int64_t>& send, HostSpan theirs,
                                  const std::vector<std::int64_t>& receive) {
  check_all_to_all(mine, send, theirs, receive, 1);
  keep_own_part(mine, send, theirs, receive, 0);
}

void SelfCommunicator::gather_bytes(const void* mine, std::int64_t bytes, void* gathered) {
  std::memcpy(gathered, mine, static_cast<std::size_t>(bytes));
}

}  // namespace roundtable
