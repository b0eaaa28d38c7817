// The fused sign step, optimizers with a memory in LibTorch's operations, and how far they step.
#include "tune/optimizer.h"

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace roundtable {
namespace {

class SignStep final : public RoundingOptimizer {
 public:
  void step(const torch::Tensor& weight, RoundingParameters& parameters, const QuantScheme& scheme,
            const torch::Tensor& gradient, const StepSize& size) override {
    sign_step(weight, parameters, scheme, gradient, size);
  }
};

// An optimizer that remembers: `Rule` holds one parameter's state and moves it by update(parameter, gradient, lr).
template <class Rule>
class WithState final : public RoundingOptimizer {
 public:
  explicit WithState(const Rule& rule) : rules_{rule, rule, rule} {}

  void step(const torch::Tensor& weight, RoundingParameters& parameters, const QuantScheme& scheme,
            const torch::Tensor& gradient, const StepSize& size) override {
    const RoundingGradients gradients = rounding_gradients(weight, parameters, scheme, gradient);
    rules_[0].update(parameters.v, gradients.v, size.lr);
    if (size.minmax_lr == 0) return;
    rules_[1].update(parameters.min_scale, gradients.min_scale, size.minmax_lr);
    rules_[2].update(parameters.max_scale, gradients.max_scale, size.minmax_lr);
    parameters.min_scale.clamp_(0, size.minmax_bound);
    parameters.max_scale.clamp_(0, size.minmax_bound);
  }

 private:
  std::array<Rule, 3> rules_;  // v, min_scale, max_scale
};

struct SignMomentum {
  double momentum;
  torch::Tensor buffer;

  void update(torch::Tensor& parameter, const torch::Tensor& gradient, float lr) {
    if (buffer.defined()) {
      buffer.mul_(momentum).add_(gradient);
    } else {
      buffer = gradient.clone();
    }
    parameter.sub_(buffer.sign(), lr);
  }
};

// Loshchilov and Hutter 2019, algorithm 2, without decay.
struct AdamW {
  static constexpr double kBeta1 = 0.9;
  static constexpr double kBeta2 = 0.999;
  static constexpr double kEps = 1e-8;
  std::int64_t steps = 0;
  torch::Tensor mean;
  torch::Tensor square;

  void update(torch::Tensor& parameter, const torch::Tensor& gradient, float lr) {
    if (steps++ == 0) {
      mean = torch::zeros_like(gradient);
      square = torch::zeros_like(gradient);
    }
    mean.lerp_(gradient, 1 - kBeta1);
    square.mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
    const double unbias1 = 1 - std::pow(kBeta1, static_cast<double>(steps));
    const double unbias2 = 1 - std::pow(kBeta2, static_cast<double>(steps));
    const torch::Tensor spread = (square.sqrt() / std::sqrt(unbias2)).add_(kEps);
    parameter.addcdiv_(mean, spread, -lr / unbias1);
  }
};

}  // namespace

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

std::unique_ptr<RoundingOptimizer> make_optimizer(OptimizerKind kind, double momentum) {
  switch (kind) {
    case OptimizerKind::kAdamW:
      return std::make_unique<WithState<AdamW>>(AdamW{});
    case OptimizerKind::kSignRound:
      if (momentum > 0) return std::make_unique<WithState<SignMomentum>>(SignMomentum{momentum, {}});
      return std::make_unique<SignStep>();
  }
  RT_UNREACHABLE("an optimizer that is not made");
}

}  // namespace roundtable
