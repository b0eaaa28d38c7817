// Collectives, what they accept, mail and the grid, at any number of ranks.
#include <gtest/gtest.h>

#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/simd/bf16_bits.h"
#include "comm/mpi/mailbox.h"
#include "comm/nccl/nccl.h"
#include "comm/rank_grid.h"
#include "tests/comm/sum_check.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

using testing::world;

bool adds_over_ranks(HostCommunicator& comm) {
  return testing::adds_over_ranks(world().rank(), world().size(),
                                  [&](std::vector<float>& data) { comm.all_reduce_sum(host_span(data)); });
}

TEST(Communicator, SumsInPlace) { EXPECT_TRUE(adds_over_ranks(world())); }

// A control of the check above, and of the same one in nccl_test: one rank's sum is the identity, and only one rank may
// take that for the sum of all.
TEST(Communicator, ThatAddsNothingIsFound) {
  SelfCommunicator alone;
  EXPECT_EQ(adds_over_ranks(alone), world().size() == 1);
}

TEST(Communicator, SumsBf16WithARoundingAnAddition) {
  // 1 + rank is exact in bf16; 256 + 1 is not, and rounds to even.
  const auto bits = [](float x) {
    std::uint16_t out;
    store(x, out);
    return out;
  };
  std::vector<std::uint16_t> data{bits(1.0f + static_cast<float>(world().rank())), bits(world().rank() == 0 ? 256 : 1)};
  world().all_reduce_sum({data.data(), 2, ElementType::kBF16});
  const int n = world().size();
  EXPECT_EQ(load(data[0]), static_cast<float>(n * (n + 1) / 2));
  if (n == 2) {
    EXPECT_EQ(load(data[1]), 256.0f);
  }
}

TEST(Communicator, ExchangesBetweenTwo) {
  std::vector<std::int64_t> mine(50000, world().rank()), theirs(mine.size(), -1);
  const int peer = world().size() == 1 ? 0 : world().rank() ^ 1;
  world().exchange(host_span(mine), host_span(theirs), peer);
  EXPECT_EQ(theirs, std::vector<std::int64_t>(mine.size(), peer));
}

// Rank r sends r + 1 numbers to rank 0, r + 2 to rank 1, and so on, but none to itself where it is the last.
TEST(Communicator, SendsAllToAllInPartsOfAnySize) {
  const int n = world().size(), mine = world().rank();
  const auto count = [&](int from, int to) { return from == to && from == n - 1 && n > 1 ? 0 : 1000 * (from + to + 1); };
  std::vector<std::int64_t> data, send, receive, wanted;
  for (int peer = 0; peer < n; ++peer) {
    send.push_back(count(mine, peer));
    receive.push_back(count(peer, mine));
    data.insert(data.end(), static_cast<std::size_t>(send.back()), 100 * mine + peer);
    wanted.insert(wanted.end(), static_cast<std::size_t>(receive.back()), 100 * peer + mine);
  }
  std::vector<std::int64_t> theirs(wanted.size(), -1);
  world().all_to_all(host_span(data), send, host_span(theirs), receive);
  EXPECT_EQ(theirs, wanted);
  EXPECT_THROW(world().all_to_all(host_span(data), send, host_span(theirs.data(), 1), receive), std::logic_error);
}

TEST(Communicator, CarriesValues) {
  const int n = world().size();
  for (int root = 0; root < n; ++root) EXPECT_EQ(world().broadcast_value(10 * world().rank(), root), 10 * root);
  EXPECT_EQ(world().sum(std::int64_t{world().rank()} + 1), n * (n + 1) / 2);
  EXPECT_EQ(world().sum(0.5), 0.5 * n);
  const std::vector<int> all = world().all_gather(world().rank());
  ASSERT_EQ(std::ssize(all), n);
  for (int rank = 0; rank < n; ++rank) EXPECT_EQ(all[static_cast<std::size_t>(rank)], rank);
}

// What a communicator accepts. These hold when this file compiles.
template <class Comm, class S>
concept Sums = requires(Comm& comm, S span) {
  comm.all_reduce_sum(span);
};
template <class Comm, class S>
concept StartsSums = requires(Comm& comm, S span) {
  comm.start_all_reduce_sum(span);
};
template <class Comm, class S>
concept Exchanges = requires(Comm& comm, S span) {
  comm.exchange(span, span, 0);
};
template <class Comm, class S>
concept Broadcasts = requires(Comm& comm, S span) {
  comm.broadcast(span, 0);
};
template <class Comm, class T>
concept CarriesValuesOf = requires(Comm& comm, T value) {
  comm.broadcast_value(value, 0);
  comm.all_gather(value);
};

static_assert(Sums<HostCommunicator, HostSpan> && Sums<DeviceCommunicator, DeviceSpan>);
static_assert(!Sums<HostCommunicator, DeviceSpan> && !Sums<DeviceCommunicator, HostSpan>);
static_assert(StartsSums<HostCommunicator, HostSpan> && StartsSums<DeviceCommunicator, DeviceSpan>);
static_assert(!StartsSums<HostCommunicator, DeviceSpan> && !StartsSums<DeviceCommunicator, HostSpan>);
static_assert(Exchanges<HostCommunicator, HostSpan> && Exchanges<DeviceCommunicator, DeviceSpan>);
static_assert(!Exchanges<HostCommunicator, DeviceSpan> && !Exchanges<DeviceCommunicator, HostSpan>);
static_assert(Broadcasts<HostCommunicator, HostSpan> && !Broadcasts<HostCommunicator, DeviceSpan>);
static_assert(!Sums<HostCommunicator, float*> && !Sums<DeviceCommunicator, float*> && !Sums<HostCommunicator, void*>);
// An address means nothing to another process: only what is behind it may travel.
static_assert(CarriesValuesOf<HostCommunicator, double> && !CarriesValuesOf<HostCommunicator, float*>);
static_assert(!CarriesValuesOf<HostCommunicator, HostSpan> && !CarriesValuesOf<HostCommunicator, DeviceSpan>);
static_assert(!std::is_convertible_v<DeviceSpan, HostSpan> && !std::is_constructible_v<HostSpan, DeviceSpan>);
static_assert(!std::is_convertible_v<HostSpan, DeviceSpan> && !std::is_constructible_v<DeviceSpan, HostSpan>);
static_assert(!std::is_convertible_v<DeviceCommunicator&, HostCommunicator&>);
static_assert(!std::is_convertible_v<HostCommunicator&, DeviceCommunicator&>);
// NCCL gets a stream, and no other pointer that happens to be at hand.
using MakeNccl = decltype(&make_nccl_communicator);
static_assert(std::is_invocable_v<MakeNccl, HostCommunicator&, Stream>);
static_assert(!std::is_invocable_v<MakeNccl, HostCommunicator&, void*>);
static_assert(!std::is_invocable_v<MakeNccl, DeviceCommunicator&, Stream>);
static_assert(!std::is_constructible_v<Stream, int, void*>);

TEST(Mailbox, CoordinatorAndWorkerOfOneRankDoNotMixTheirMail) {
  Mailbox mailbox(world());
  mailbox.send(0, MailTo::kCoordinator, "question " + std::to_string(world().rank()));
  if (world().rank() == 0) {
    for (int i = 0; i < world().size(); ++i) {
      const Mail mail = mailbox.receive(MailTo::kCoordinator);
      EXPECT_EQ(mail.text, "question " + std::to_string(mail.source));
      mailbox.send(mail.source, MailTo::kWorker, "answer");
    }
  }
  EXPECT_EQ(mailbox.receive(MailTo::kWorker).text, "answer");
}

TEST(RankGrid, NeighboursShareAGroup) {
  for (int shards = 1; shards <= world().size(); ++shards) {
    if (world().size() % shards != 0) continue;
    RankGrid grid(world(), shards);
    EXPECT_EQ(grid.group() * shards + grid.shard(), world().rank());
    EXPECT_EQ(grid.group_comm().size(), shards);
    EXPECT_EQ(grid.group_comm().rank(), grid.shard());
    std::int64_t expected = 0;
    for (int shard = 0; shard < shards; ++shard) expected += grid.group() * shards + shard;
    EXPECT_EQ(grid.group_comm().sum(std::int64_t{world().rank()}), expected);
  }
}

}  // namespace
}  // namespace roundtable
