// Collectives, agreement on errors, mail and the grid, at any number of ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "base/simd/bf16_bits.h"
#include "comm/mpi/mailbox.h"
#include "comm/rank_grid.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

using testing::world;

TEST(Communicator, SumsInPlace) {
  std::vector<float> data(100000);
  std::iota(data.begin(), data.end(), static_cast<float>(world().rank()));
  world().all_reduce_sum(data.data(), static_cast<std::int64_t>(data.size()), ElementType::kF32);
  const int n = world().size();
  for (const std::size_t i : {std::size_t{0}, std::size_t{5}, data.size() - 1}) {
    EXPECT_EQ(data[i], static_cast<float>(n) * static_cast<float>(i) + static_cast<float>(n * (n - 1) / 2));
  }
}

TEST(Communicator, SumsBf16WithARoundingAnAddition) {
  // 1 + rank is exact in bf16; 256 + 1 is not, and rounds to even.
  const auto bits = [](float x) {
    std::uint16_t out;
    store(x, out);
    return out;
  };
  std::vector<std::uint16_t> data{bits(1.0f + static_cast<float>(world().rank())), bits(world().rank() == 0 ? 256 : 1)};
  world().all_reduce_sum(data.data(), 2, ElementType::kBF16);
  const int n = world().size();
  EXPECT_EQ(load(data[0]), static_cast<float>(n * (n + 1) / 2));
  if (n == 2) {
    EXPECT_EQ(load(data[1]), 256.0f);
  }
}

TEST(Communicator, ExchangesBetweenTwo) {
  std::vector<int> mine(50000, world().rank()), theirs(mine.size(), -1);
  const int peer = world().size() == 1 ? 0 : world().rank() ^ 1;
  world().exchange(mine.data(), theirs.data(), static_cast<std::int64_t>(mine.size() * sizeof(int)), peer);
  EXPECT_EQ(theirs, std::vector<int>(mine.size(), peer));
}

TEST(Communicator, BroadcastsFromAnyRoot) {
  for (int root = 0; root < world().size(); ++root) {
    EXPECT_EQ(broadcast_text(world(), world().rank() == root ? "from " + std::to_string(root) : "", root),
              "from " + std::to_string(root));
  }
}

TEST(Communicator, GathersTextsInRankOrder) {
  const auto texts = all_gather_text(world(), std::string(static_cast<std::size_t>(world().rank()), 'x'));
  ASSERT_EQ(texts.size(), static_cast<std::size_t>(world().size()));
  for (std::size_t rank = 0; rank < texts.size(); ++rank) EXPECT_EQ(texts[rank].size(), rank);
}

TEST(Communicator, AnErrorOfTheRootIsThrownEverywhere) {
  try {
    run_on_root(world(), []() -> std::string { throw bad_input("file", "is broken", "mend it"); });
    FAIL() << "nothing was thrown";
  } catch (const AgreedError& error) {
    EXPECT_STREQ(error.what(), "file: is broken; mend it");
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
  }
}

TEST(Communicator, AnErrorOfTheLastRankIsThrownEverywhere) {
  const int last = world().size() - 1;
  try {
    run_on_all(world(), [&] {
      if (world().rank() == last) throw machine_error("disk", "is full");
    });
    FAIL() << "nothing was thrown";
  } catch (const AgreedError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("disk: is full"));
    EXPECT_EQ(error.code(), ExitCode::kMachine);
  }
}

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
    std::int64_t sum = world().rank();
    grid.group_comm().all_reduce_sum(&sum, 1, ElementType::kI64);
    std::int64_t expected = 0;
    for (int shard = 0; shard < shards; ++shard) expected += grid.group() * shards + shard;
    EXPECT_EQ(sum, expected);
  }
}

TEST(ChooseShards, TakesTheLargestThatDivides) {
  EXPECT_EQ(choose_shards(0, 8, 8, 8), 8);
  EXPECT_EQ(choose_shards(0, 16, 8, 8), 8);   // a group stays inside a node
  EXPECT_EQ(choose_shards(0, 8, 8, 4), 4);    // the strata
  EXPECT_EQ(choose_shards(0, 6, 6, 8), 2);
  EXPECT_EQ(choose_shards(2, 8, 8, 8), 2);
  EXPECT_THROW(choose_shards(3, 8, 8, 9), Error);
  EXPECT_THROW(choose_shards(4, 8, 8, 6), Error);
}

}  // namespace
}  // namespace roundtable
