// Schedules against torch.optim.lr_scheduler's formulas by hand, and auto-round's default rates.
#include <gtest/gtest.h>

#include "tune/optimizer.h"

namespace roundtable {
namespace {

TEST(LearningRate, Schedules) {
  // LinearLR from 1 to 0, a constant, and CosineAnnealingLR with T_max = iters: 4 iterations.
  const double linear[] = {1, 0.75, 0.5, 0.25};
  const double cosine[] = {1, 0.85355339, 0.5, 0.14644661};
  for (std::int64_t i = 0; i < 4; ++i) {
    EXPECT_DOUBLE_EQ(schedule_factor(LrScheduler::kLinear, i, 4), linear[i]);
    EXPECT_EQ(schedule_factor(LrScheduler::kConstant, i, 4), 1);
    EXPECT_NEAR(schedule_factor(LrScheduler::kCosine, i, 4), cosine[i], 1e-8);
  }
}

TEST(LearningRate, DefaultsOfTheReference) {
  EXPECT_EQ(default_lr(OptimizerKind::kSignRound, 4, 200), 1.0 / 200);
  EXPECT_EQ(default_lr(OptimizerKind::kSignRound, 2, 999), 1.0 / 999);
  EXPECT_EQ(default_lr(OptimizerKind::kSignRound, 4, 1000), 1.0 / 1000);
  EXPECT_EQ(default_lr(OptimizerKind::kSignRound, 3, 1000), 2.0 / 1000);
  EXPECT_EQ(default_lr(OptimizerKind::kAdamW, 4, 200), 0.01);
}

}  // namespace
}  // namespace roundtable
