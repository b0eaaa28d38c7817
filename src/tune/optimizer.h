// What turns the gradients of one layer's rounding parameters into a step.
#pragma once

#include <memory>

#include "quant/fake_quant.h"
#include "tune/learning_rate.h"

namespace roundtable {

class RoundingOptimizer {
 public:
  virtual ~RoundingOptimizer() = default;

  // One step from `gradient` = dL/dWq, [out, in] fp32. min_scale and max_scale stay in [0, 1]; where size.minmax_lr is
  // 0 they stay as they are. Called once an iteration, with one layer for the optimizer's whole life.
  virtual void step(const torch::Tensor& weight, RoundingParameters& parameters, const QuantScheme& scheme,
                    const torch::Tensor& gradient, const StepSize& size) = 0;
};

// signround:               p -= lr * sign(g)                                (SignRound, equation 6)
// signround with momentum: b = momentum * b + g (at first b = g), p -= lr * sign(b)   (auto-round's sign_sgd.py)
// adamw:                   torch.optim.AdamW with betas 0.9 and 0.999, eps 1e-8 and no weight decay
std::unique_ptr<RoundingOptimizer> make_optimizer(OptimizerKind kind, double momentum);

}  // namespace roundtable
