// A step of one layer's rounding parameters: its direction, from their gradients, and its length. Rates and schedules
// are those of auto-round 0.16.1 (algorithms/quantization/sign_round/config.py and quantizer.py).
#pragma once

#include <cstdint>
#include <memory>

#include "config/choices.h"
#include "quant/fake_quant.h"

namespace roundtable {

// The factor on the rate of step `iteration`, which is in [0, iters).
double schedule_factor(LrScheduler scheduler, std::int64_t iteration, std::int64_t iters);

// The rate of the first step if none is given. signround: 1 / iters, and 2 / iters for layers of up to 3 bits from 1000
// iterations on (_lr_for_bits); adamw: 0.01 (neural_compressor's AutoAdamRound).
double default_lr(OptimizerKind optimizer, int bits, std::int64_t iters);

class RoundingOptimizer {
 public:
  virtual ~RoundingOptimizer() = default;

  // One step from `gradient` = dL/dWq, [out, in] fp32. min_scale and max_scale stay in [0, size.minmax_bound]; if
  // size.minmax_lr is 0
  // they stay as they are. Called once per iteration, always with the same layer.
  virtual void step(const torch::Tensor& weight, RoundingParameters& parameters, const QuantScheme& scheme,
                    const torch::Tensor& gradient, const StepSize& size) = 0;
};

// signround:               p -= lr * sign(g)                                (SignRound, equation 6)
// signround with momentum: b = momentum * b + g (at first b = g), p -= lr * sign(b)   (auto-round's sign_sgd.py)
// adamw:                   torch.optim.AdamW with betas 0.9 and 0.999, eps 1e-8 and no weight decay
std::unique_ptr<RoundingOptimizer> make_optimizer(OptimizerKind kind, double momentum);

}  // namespace roundtable
