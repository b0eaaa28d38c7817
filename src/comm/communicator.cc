// The communicator of one rank alone.
#include "comm/communicator.h"

#include <cstring>

#include "base/error.h"

namespace roundtable {
namespace {

struct DoneSum final : PendingSum {
  bool poll() override { return true; }
  void wait() override {}
};

}  // namespace

std::unique_ptr<PendingSum> SelfCommunicator::start_all_reduce_sum(HostSpan) { return std::make_unique<DoneSum>(); }

void SelfCommunicator::exchange(HostSpan mine, HostSpan theirs, int peer) {
  RT_CHECK(peer == 0 && mine.bytes() == theirs.bytes());
  std::memcpy(theirs.data, mine.data, static_cast<std::size_t>(mine.bytes()));
}

void SelfCommunicator::gather_bytes(const void* mine, std::int64_t bytes, void* gathered) {
  std::memcpy(gathered, mine, static_cast<std::size_t>(bytes));
}

}  // namespace roundtable
