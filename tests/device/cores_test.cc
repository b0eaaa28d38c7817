// Cores of nodes with and without hyper-threads, and what ranks get of them.
#include "device/cores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>


namespace roundtable {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int> range(int begin, int end) {
  std::vector<int> all(static_cast<std::size_t>(end - begin));
  std::iota(all.begin(), all.end(), begin);
  return all;
}

// Cores of two threads each, numbered as Linux does on servers: first all cores, then their second threads.
Cores with_threads(int begin, int end, int cores) {
  Cores all;
  for (int core = begin; core < end; ++core) all.push_back({core, core + cores});
  return all;
}

Cores single(int begin, int end) {
  Cores all;
  for (int core = begin; core < end; ++core) all.push_back({core});
  return all;
}

TEST(CpuLists, AreThoseOfLinux) {
  EXPECT_THAT(parse_cpu_list("0,112"), ElementsAre(0, 112));
  EXPECT_THAT(parse_cpu_list("0-3,8"), ElementsAre(0, 1, 2, 3, 8));
  for (const char* wrong : {"", "a", "3-1", "1-", "-1", "1;2", "0-99999999", "1,,2"}) {
    EXPECT_THAT(parse_cpu_list(wrong), IsEmpty()) << wrong;
  }
}

TEST(CoresOf, JoinsTheThreadsOfACore) {
  const auto folder = std::filesystem::temp_directory_path() / ("roundtable-cores-" + std::to_string(getpid()));
  const auto write = [&](int cpu, const char* list) {
    const auto place = folder / ("cpu" + std::to_string(cpu)) / "topology";
    std::filesystem::create_directories(place);
    std::ofstream(place / "core_cpus_list") << list << "\n";
  };
  write(0, "0,2");
  write(1, "1,3");
  write(2, "0,2");
  write(3, "not a list");
  EXPECT_THAT(cores_of({0, 1, 2, 3, 9}, folder), ElementsAre(ElementsAre(0, 2), ElementsAre(1), ElementsAre(3), ElementsAre(9)));
  EXPECT_THAT(cores_of({2}, folder), ElementsAre(ElementsAre(2)));
  std::filesystem::remove_all(folder);
}

TEST(PlaceRank, OpenMpisSingleCoreBecomesAFairPart) {
  // 8 ranks on 2 x 56 cores; Open MPI has bound rank 3 to core 3, with or without its second thread.
  for (const Cores& bound : {Cores{{3, 115}}, Cores{{3}}}) {
    const Placement placement = place_rank(with_threads(0, 112, 112), bound, 3, 8);
    EXPECT_EQ(placement.threads, 14);
    std::vector<int> expected;
    for (int core = 42; core < 56; ++core) expected.insert(expected.end(), {core, core + 112});
    EXPECT_EQ(placement.cpus, expected);
  }
}

TEST(PlaceRank, AChosenBindingStays) {
  // bind.sh of a DGX H100: 14 cores without their second threads, where the job has all 224 CPUs.
  const Placement dgx = place_rank(with_threads(0, 112, 112), single(42, 56), 3, 8);
  EXPECT_EQ(dgx.threads, 14);
  EXPECT_THAT(dgx.cpus, IsEmpty());
  // Fewer cores than the part: two of sixteen.
  const Placement two = place_rank(single(0, 32), single(4, 6), 1, 2);
  EXPECT_EQ(two.threads, 2);
  EXPECT_THAT(two.cpus, IsEmpty());
}

TEST(PlaceRank, WithoutABindingRanksShareTheCores) {
  const Placement placement = place_rank(with_threads(0, 8, 8), with_threads(0, 8, 8), 0, 4);
  EXPECT_EQ(placement.threads, 2);
  EXPECT_THAT(placement.cpus, IsEmpty());
  EXPECT_EQ(place_rank(single(0, 2), single(0, 2), 3, 4).threads, 1);  // more ranks than cores
  EXPECT_EQ(place_rank(single(5, 6), single(5, 6), 0, 1).threads, 1);
  EXPECT_EQ(place_rank({}, {}, 0, 1).threads, 1);
}

}  // namespace
}  // namespace roundtable
