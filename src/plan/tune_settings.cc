// Keys of the config to settings of the tuner.
#include "plan/tune_settings.h"

#include "plan/forecast.h"

namespace roundtable {

ElementType gradient_type(const Config& config) {
  const std::string& name = config.parallel.gradient_dtype;
  return name == "bf16" ? ElementType::kBF16 : name == "sign" ? ElementType::kI8 : ElementType::kF32;
}

TuneSettings tune_settings(const Config& config, int shards) {
  const TuningSection& tuning = config.tuning;
  return {.iters = tuning.iters,
          .micro_batch = micro_batch_of(config, shards),
          .lr = tuning.lr,
          .minmax_lr = tuning.minmax_lr,
          .enable_minmax_tuning = tuning.enable_minmax_tuning,
          .not_use_mse = tuning.not_use_mse,
          .optimizer = tuning.optimizer == "adamw" ? OptimizerKind::kAdamW : OptimizerKind::kSignRound,
          .momentum = tuning.momentum,
          .lr_scheduler = tuning.lr_scheduler == "constant" ? LrScheduler::kConstant
                          : tuning.lr_scheduler == "cosine" ? LrScheduler::kCosine
                                                            : LrScheduler::kLinear,
          .dynamic_max_gap = tuning.dynamic_max_gap,
          .reproducible = config.run.reproducible,
          .gradient_type = gradient_type(config)};
}

FileLayout file_layout(const Config& config) {
  const auto& s = config.storage;
  return {.alignment = parse_byte_size(s.alignment).value_or(0),
          .stripe_count = s.stripe_count,
          .stripe_bytes = parse_byte_size(s.stripe_size).value_or(0),
          .collective = s.collective};
}

}  // namespace roundtable
