// How far a step goes: the rates and schedules of auto-round 0.16.1 (algorithms/quantization/sign_round/config.py and
// quantizer.py).
#pragma once

#include <cstdint>

#include "config/choices.h"

namespace roundtable {

// The factor of step `iteration` in [0, iters).
double schedule_factor(LrScheduler scheduler, std::int64_t iteration, std::int64_t iters);

// The first step's rate where none is given. signround: 1 / iters, and 2 / iters for layers of up to 3 bits from 1000
// iterations on (_lr_for_bits); adamw: 0.01 (neural_compressor's AutoAdamRound).
double default_lr(OptimizerKind optimizer, int bits, std::int64_t iters);

}  // namespace roundtable
