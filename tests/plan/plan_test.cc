// Layout: how blocks are cut into stages.
#include <gtest/gtest.h>

#include "plan/layout.h"

namespace roundtable {
namespace {

TEST(CutStages, CoversAllBlocksLongerOnesFirst) {
  for (const std::int64_t blocks : {1, 7, 30, 80}) {
    for (std::int64_t stages = 1; stages <= blocks; ++stages) {
      const auto cut = cut_stages(blocks, stages);
      ASSERT_EQ(static_cast<std::int64_t>(cut.size()), stages);
      std::int64_t next = 0;
      for (const Stage& stage : cut) {
        EXPECT_EQ(stage.first, next);
        EXPECT_GE(stage.size(), blocks / stages);
        EXPECT_LE(stage.size(), cut.front().size());
        next = stage.last;
      }
      EXPECT_EQ(next, blocks);
    }
  }
}

}  // namespace
}  // namespace roundtable
