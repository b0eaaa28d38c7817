// Texts, results and errors that ranks agree on, and who adds the rank to an error, at any number of ranks.
#include "comm/agree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/activity.h"
#include "base/error.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

using testing::world;

int last_rank() { return world().size() - 1; }

TEST(Agree, TextsComeFromAnyRoot) {
  for (int root = 0; root < world().size(); ++root) {
    EXPECT_EQ(broadcast_text(world(), "from " + std::to_string(world().rank()), root), "from " + std::to_string(root));
  }
}

TEST(Agree, TextsAreGatheredInRankOrder) {
  const auto texts = all_gather_text(world(), std::string(static_cast<std::size_t>(world().rank()), 'x'));
  ASSERT_EQ(texts.size(), static_cast<std::size_t>(world().size()));
  for (std::size_t rank = 0; rank < texts.size(); ++rank) EXPECT_EQ(texts[rank].size(), rank);
}

TEST(Agree, ResultsOfTheRootAreEverybodys) {
  for (int root = 0; root < world().size(); ++root) {
    int runs = 0;
    run_on_root(world(), root, [&] { ++runs; });
    EXPECT_EQ(runs, world().rank() == root ? 1 : 0);
    // Bytes of a file's name need not be UTF-8, as JSON would have it.
    EXPECT_EQ(run_on_root(world(), root, [] { return std::string("\xff\0 name", 7); }), std::string("\xff\0 name", 7));
    EXPECT_EQ(run_on_root(world(), root, [&] { return world().rank() == root; }), true);
    const std::vector<std::int64_t> list = run_on_root(world(), root, [&] {
      return std::vector<std::int64_t>{world().rank(), 7};
    });
    EXPECT_EQ(list, (std::vector<std::int64_t>{root, 7}));
    const nlohmann::json object = run_on_root(world(), root, [&] { return nlohmann::json{{"rank", world().rank()}}; });
    EXPECT_EQ(object, (nlohmann::json{{"rank", root}}));
  }
  EXPECT_EQ(run_on_root(world(), [] { return nlohmann::json(); }), nlohmann::json());
}

// The line of the AgreedError that `call` throws here, after a check of its code.
template <class Call>
std::string agreed(ExitCode code, const Call& call) {
  try {
    call();
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  return "no AgreedError";
}

// Each rank's fault is its own, so that a rank that sees another one's fault knows.
void fail() { throw machine_error(fmt::format("disk {}", world().rank()), "is full", "free some space"); }
std::string fault_of(int rank) { return fmt::format("disk {}: is full; free some space", rank); }
void fail_on_the_last() {
  if (world().rank() == last_rank()) fail();
}

// Before the first phase lines speak of input, which rank 0 reads for all.
TEST(Agree, BeforeTheFirstPhaseOnlyOtherRanksThanTheRootAreNamed) {
  EXPECT_EQ(agreed(ExitCode::kMachine, [] { run_on_root(world(), fail); }), fault_of(0));
  const std::string named = (world().size() > 1 ? fmt::format("rank {}: ", last_rank()) : "") + fault_of(last_rank());
  EXPECT_EQ(agreed(ExitCode::kMachine, [] { run_on_root(world(), last_rank(), fail); }), named);
  EXPECT_EQ(agreed(ExitCode::kMachine, [] { run_on_all(world(), fail_on_the_last); }), named);
}

class AgreeInAPhase : public ::testing::Test {
 protected:
  void SetUp() override {
    set_rank(world().rank());
    enter_phase("tune");
    enter_block(4);
  }
  void TearDown() override { enter_phase(""); }

  static std::string place_of(int rank) { return fmt::format("rank {} on {}, tune, block 4", rank, host_name()); }
};

TEST_F(AgreeInAPhase, TheRankOfTheFaultIsNamedOnce) {
  const std::string line = place_of(last_rank()) + ": " + fault_of(last_rank());
  EXPECT_EQ(agreed(ExitCode::kMachine, [] { run_on_root(world(), last_rank(), fail); }), line);
  EXPECT_EQ(agreed(ExitCode::kMachine, [] { run_on_all(world(), fail_on_the_last); }), line);
  const auto again = [] { run_on_all(world(), [] { run_on_root(world(), last_rank(), fail); }); };
  EXPECT_EQ(agreed(ExitCode::kMachine, again), line);
  const auto located_before = [] {
    run_on_all(world(), [] { throw LocatedError(ExitCode::kMachine, "rank 9 on moon, tune: disk: is full"); });
  };
  EXPECT_EQ(agreed(ExitCode::kMachine, located_before), "rank 9 on moon, tune: disk: is full");
}

TEST_F(AgreeInAPhase, TheLowestRankThatFailsSpeaks) {
  EXPECT_EQ(agreed(ExitCode::kMachine, [] { run_on_all(world(), fail); }), place_of(0) + ": " + fault_of(0));
}

TEST_F(AgreeInAPhase, LeavingInTimeIsNobodysFault) {
  const auto leave = [] {
    run_on_all(world(), [] {
      if (world().rank() == last_rank()) throw Error(ExitCode::kStartAgain, "SIGTERM");
    });
  };
  EXPECT_EQ(agreed(ExitCode::kStartAgain, leave), "SIGTERM");
}

}  // namespace
}  // namespace roundtable
