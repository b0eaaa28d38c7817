// Jobs whose ranks have found devices that do not fit together, and what asks for devices.
#include "commands/checks/rank_devices.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr bool kAlone = false;
constexpr bool kSharing = true;

// The `index`th device of a node.
RankDevice gpu(const char* node, int index) {
  return {.node = node, .is_cuda = true, .name = "NVIDIA H100", .uuid = fmt::format("GPU-{}", index), .reason = ""};
}
RankDevice cpu(const char* node) { return {.node = node, .reason = "the driver is too old"}; }

TEST(RankDevices, OfOneKindAreNoFault) {
  EXPECT_FALSE(fault_of_devices({gpu("a", 0), gpu("a", 1), gpu("b", 0)}, kAlone).has_value());
  EXPECT_FALSE(fault_of_devices({cpu("a"), cpu("b")}, kAlone).has_value());
  EXPECT_FALSE(fault_of_devices({}, kAlone).has_value());
}

TEST(RankDevices, ANodeWithoutItsDevicesIsNamedWithTheReason) {
  const auto fault = fault_of_devices({gpu("a", 0), gpu("a", 1), cpu("b"), cpu("b")}, kSharing);
  ASSERT_TRUE(fault.has_value());
  EXPECT_THAT(*fault, AllOf(HasSubstr("rank 2 on b: there is no CUDA device (the driver is too old)"),
                            HasSubstr("2 of 4 ranks have one"), HasSubstr("--exclude=b)")));
  EXPECT_EQ(fault->find('\n'), std::string::npos);
}

TEST(RankDevices, SeveralSuchNodesAreCounted) {
  const auto fault = fault_of_devices({cpu("d"), gpu("a", 0), cpu("b"), cpu("c")}, kAlone);
  ASSERT_TRUE(fault.has_value());
  EXPECT_THAT(*fault, AllOf(HasSubstr("rank 0 on d, and 2 more nodes: "), HasSubstr("--exclude=b,c,d)")));
}

TEST(RankDevices, TwoRanksOnOneDeviceAreRefusedUnlessTheyMayShareIt) {
  const std::vector<RankDevice> ranks = {gpu("a", 0), gpu("b", 0), gpu("a", 1), gpu("b", 0)};
  const auto fault = fault_of_devices(ranks, kAlone);
  ASSERT_TRUE(fault.has_value());
  EXPECT_THAT(*fault, AllOf(HasSubstr("ranks 1 and 3 on b: both have the device NVIDIA H100 (GPU-0)"),
                            HasSubstr("parallel.share_devices: true")));
  EXPECT_FALSE(fault_of_devices(ranks, kSharing).has_value());
}

TEST(RankDevices, AreDescribedByKind) {
  RankDevice other = gpu("c", 0);
  other.name = "NVIDIA A100";
  EXPECT_EQ(describe_devices({gpu("a", 0), other, gpu("a", 1)}, "2.29.7"), "1 x NVIDIA A100, 2 x NVIDIA H100, NCCL 2.29.7");
  EXPECT_EQ(describe_devices({cpu("a"), cpu("a")}, "2.29.7"), "2 x CPU");
  EXPECT_EQ(describe_kinds({gpu("a", 0), other, gpu("a", 1)}, "2.29.7"), "NVIDIA A100, NVIDIA H100, NCCL 2.29.7");
  EXPECT_EQ(describe_kinds({cpu("a"), cpu("a")}, "2.29.7"), "");
}

TEST(WhoAsksForCuda, TheConfigOrTheJobButNotWhereMpiIsChosen) {
  Config config;
  EXPECT_FALSE(who_asks_for_cuda(config, nullptr).has_value());
  EXPECT_FALSE(who_asks_for_cuda(config, "").has_value());
  EXPECT_FALSE(who_asks_for_cuda(config, "0").has_value());
  EXPECT_THAT(who_asks_for_cuda(config, "8").value_or(""), HasSubstr("SLURM_GPUS_ON_NODE=8"));
  config.cluster.nodes = 1;
  EXPECT_THAT(who_asks_for_cuda(config, nullptr).value_or(""), HasSubstr("--cluster"));
  config.parallel.backend = Backend::kMpi;
  EXPECT_FALSE(who_asks_for_cuda(config, "8").has_value());
  config.parallel.backend = Backend::kNccl;
  config.cluster.nodes = 0;
  EXPECT_EQ(who_asks_for_cuda(config, nullptr), "parallel.backend: nccl");
}

}  // namespace
}  // namespace roundtable
