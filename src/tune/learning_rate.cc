// Rates and schedules.
#include "tune/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace roundtable {

double schedule_factor(LrScheduler scheduler, std::int64_t iteration, std::int64_t iters) {
  const double done = static_cast<double>(iteration) / static_cast<double>(iters);
  switch (scheduler) {
    case LrScheduler::kConstant:
      return 1;
    case LrScheduler::kCosine:
      return (1 + std::cos(std::numbers::pi * done)) / 2;
    case LrScheduler::kLinear:
      return 1 - done;
  }
  RT_UNREACHABLE("a schedule without a factor");
}

double default_lr(OptimizerKind optimizer, int bits, std::int64_t iters) {
  const double steps = static_cast<double>(std::max<std::int64_t>(1, iters));
  switch (optimizer) {
    case OptimizerKind::kAdamW:
      return 0.01;
    case OptimizerKind::kSignRound:
      return iters >= 1000 && bits <= 3 ? 2 / steps : 1 / steps;
  }
  RT_UNREACHABLE("an optimizer without a rate");
}

}  // namespace roundtable
