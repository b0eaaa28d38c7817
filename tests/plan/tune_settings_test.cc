// What the config tells the tuner and the writer of boundary files.
#include "plan/tune_settings.h"

#include <gtest/gtest.h>

namespace roundtable {
namespace {

TEST(TuneSettings, EveryGradientTypeHasItsElement) {
  Config config;
  EXPECT_EQ(gradient_type(config), ElementType::kF32);
  config.parallel.gradient_dtype = GradientDtype::kBf16;
  EXPECT_EQ(gradient_type(config), ElementType::kBF16);
  config.parallel.gradient_dtype = GradientDtype::kSign;
  EXPECT_EQ(gradient_type(config), ElementType::kI8);
  EXPECT_EQ(std::size(kChoices<GradientDtype>), 3u);
}

TEST(TuneSettings, ChoicesReachTheTunerAsTheyAre) {
  Config config;
  config.tuning.optimizer = OptimizerKind::kAdamW;
  config.tuning.lr_scheduler = LrScheduler::kCosine;
  config.parallel.gradient_dtype = GradientDtype::kBf16;
  const TuneSettings settings = tune_settings(config, 2);
  EXPECT_EQ(settings.optimizer, OptimizerKind::kAdamW);
  EXPECT_EQ(settings.lr_scheduler, LrScheduler::kCosine);
  EXPECT_EQ(settings.gradient_type, ElementType::kBF16);
}

TEST(TuneSettings, SizesOfBoundaryFilesAreInBytes) {
  Config config;
  EXPECT_EQ(file_layout(config).alignment, 0);
  EXPECT_EQ(file_layout(config).stripe_bytes, 0);
  config.storage = {
      .alignment = ByteSize("1MiB"), .stripe_count = 4, .stripe_size = ByteSize("2KB"), .collective = true};
  const FileLayout layout = file_layout(config);
  EXPECT_EQ(layout.alignment, 1 << 20);
  EXPECT_EQ(layout.stripe_count, 4);
  EXPECT_EQ(layout.stripe_bytes, 2000);
  EXPECT_TRUE(layout.collective);
}

}  // namespace
}  // namespace roundtable
