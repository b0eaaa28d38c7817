// Jobs whose ranks have found devices of two kinds.
#include "commands/rank_devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

RankDevice gpu(const char* node) { return {node, true, ""}; }
RankDevice cpu(const char* node) { return {node, false, "the driver is too old"}; }

TEST(RankDevices, OfOneKindAreNoFault) {
  EXPECT_FALSE(fault_of_devices({gpu("a"), gpu("a"), gpu("b")}).has_value());
  EXPECT_FALSE(fault_of_devices({cpu("a"), cpu("b")}).has_value());
  EXPECT_FALSE(fault_of_devices({}).has_value());
}

TEST(RankDevices, ANodeWithoutItsDevicesIsNamedWithTheReason) {
  const auto fault = fault_of_devices({gpu("a"), gpu("a"), cpu("b"), cpu("b")});
  ASSERT_TRUE(fault.has_value());
  EXPECT_THAT(*fault, AllOf(HasSubstr("rank 2 on b: there is no CUDA device (the driver is too old)"),
                            HasSubstr("2 of 4 ranks have one"), HasSubstr("--exclude=b)")));
  EXPECT_EQ(fault->find('\n'), std::string::npos);
}

TEST(RankDevices, SeveralSuchNodesAreCounted) {
  const auto fault = fault_of_devices({cpu("d"), gpu("a"), cpu("b"), cpu("c")});
  ASSERT_TRUE(fault.has_value());
  EXPECT_THAT(*fault, AllOf(HasSubstr("rank 0 on d, and 2 more nodes: "), HasSubstr("--exclude=b,c,d)")));
}

}  // namespace
}  // namespace roundtable
