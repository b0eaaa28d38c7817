// The keys of the config that the tuner and the boundary files are told.
#include "plan/tune_settings.h"

#include "base/error.h"
#include "plan/shape.h"

namespace roundtable {

ElementType gradient_type(const Config& config) {
  switch (config.parallel.gradient_dtype) {
    case GradientDtype::kFp32:
      return ElementType::kF32;
    case GradientDtype::kBf16:
      return ElementType::kBF16;
    case GradientDtype::kSign:
      return ElementType::kI8;  // a count of votes
  }
  RT_UNREACHABLE("a gradient_dtype without an element type");
}

namespace {

double outlier_share(const Config& config) {
  constexpr double kShare = 0.001;
  switch (config.tuning.outlier_suppressed_loss) {
    case OutlierSuppressedLoss::kBelow4Bits:
      return config.quantization.bits < 4 ? kShare : 0;
    case OutlierSuppressedLoss::kAlways:
      return kShare;
    case OutlierSuppressedLoss::kNever:
      return 0;
  }
  RT_UNREACHABLE("an outlier_suppressed_loss without a share");
}

}  // namespace

TuneSettings tune_settings(const Config& config, int shards) {
  const TuningSection& tuning = config.tuning;
  return {.iters = tuning.iters,
          .micro_batch = micro_batch_of(config, shards),
          .lr = tuning.lr,
          .minmax_lr = tuning.minmax_lr,
          .enable_minmax_tuning = tuning.enable_minmax_tuning,
          .minmax_scale_bound = tuning.minmax_scale_bound,
          .outliers = outlier_share(config),
          .not_use_mse = tuning.not_use_mse,
          .optimizer = tuning.optimizer,
          .momentum = tuning.momentum,
          .lr_scheduler = tuning.lr_scheduler,
          .dynamic_max_gap = tuning.dynamic_max_gap,
          .reproducible = config.run.reproducible,
          .gradient_type = gradient_type(config)};
}

FileLayout file_layout(const Config& config) {
  const auto& s = config.storage;
  return {.alignment = s.alignment.bytes(),
          .stripe_count = s.stripe_count,
          .stripe_bytes = s.stripe_size.bytes(),
          .collective = s.collective};
}

}  // namespace roundtable
