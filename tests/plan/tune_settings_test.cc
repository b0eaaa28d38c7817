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
  config.tuning.minmax_scale_bound = 1.5;
  const TuneSettings settings = tune_settings(config, 2);
  EXPECT_EQ(settings.minmax_scale_bound, 1.5);
  EXPECT_EQ(settings.optimizer, OptimizerKind::kAdamW);
  EXPECT_EQ(settings.lr_scheduler, LrScheduler::kCosine);
  EXPECT_EQ(settings.gradient_type, ElementType::kBF16);
}

TEST(TuneSettings, OutliersAreLeftOutBelow4BitsAlwaysOrNever) {
  const auto outliers = [](OutlierSuppressedLoss wanted, int bits) {
    Config config;
    config.tuning.outlier_suppressed_loss = wanted;
    config.quantization.bits = bits;
    return tune_settings(config, 1).outliers;
  };
  EXPECT_EQ(outliers(OutlierSuppressedLoss::kBelow4Bits, 3), 0.001);
  EXPECT_EQ(outliers(OutlierSuppressedLoss::kBelow4Bits, 4), 0);
  EXPECT_EQ(outliers(OutlierSuppressedLoss::kAlways, 4), 0.001);
  EXPECT_EQ(outliers(OutlierSuppressedLoss::kNever, 2), 0);
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
