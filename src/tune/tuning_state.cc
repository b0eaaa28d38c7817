// Layers, their parameters, and the arena that their gradients share.
#include "tune/tuning_state.h"

#include <torch/types.h>

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace roundtable {

BlockChain::BlockChain(const std::vector<Block*>& blocks) : blocks_(blocks) {
  for (Block* block : blocks) {
    for (Linear& linear : block->linears()) linears_.push_back(&linear);
  }
}

torch::Tensor BlockChain::forward(States states) const {
  for (const Block* block : blocks_) states.hidden = block->forward(states.hidden, states.side);
  return states.hidden;
}

torch::Tensor BlockChain::forward_idle(States states) const {
  for (const Block* block : blocks_) states.hidden = block->forward_idle(states.hidden, states.side);
  return states.hidden;
}

const ExpertExchange* BlockChain::exchange() const {
  const auto found = std::find_if(blocks_.begin(), blocks_.end(), [](const Block* b) { return b->exchange() != nullptr; });
  return found == blocks_.end() ? nullptr : (*found)->exchange();
}

std::string BlockChain::name(const Linear& linear) const {
  if (blocks_.size() == 1) return linear.name;
  std::size_t place = 0;
  for (const Block* block : blocks_) {
    const std::vector<Linear>& own = block->linears();
    if (&linear >= own.data() && &linear < own.data() + own.size()) break;
    ++place;
  }
  return fmt::format("{}.{}", place, linear.name);
}

TuningState::TuningState(const BlockChain& chain, const TuningUnit& unit, const TuneSettings& settings,
                         const TensorGroup& group, const std::vector<torch::Tensor>& importance)
    : chain_(chain), original_(unit.original), schemes_(unit.schemes), settings_(settings) {
  RT_CHECK(original_.size() == chain.size() && schemes_.size() == chain.size());
  RT_CHECK(importance.empty() || importance.size() == chain.size());
  best_.resize(schemes_.size());
  for (std::size_t i = 0; i < schemes_.size(); ++i) {
    if (!original_[i].defined()) schemes_[i].reset();  // another rank holds this expert, and tunes it
  }
  std::vector<torch::Tensor> quantized;
  place_.resize(schemes_.size());
  for_each([&](std::size_t i) {
    place_[i] = quantized.size();
    quantized.push_back(original_[i]);
  });
  if (quantized.empty()) return;
  share_global_scale(quantized);
  arena_.emplace(quantized);
  sum_.emplace(arena_->whole(), arena_->starts(), settings.gradient_type, group, settings.bucket_bytes);
  least_loss_ = torch::full({}, std::numeric_limits<float>::infinity(), arena_->whole().options());
  parameters_.resize(schemes_.size());
  optimizers_.resize(schemes_.size());
  for_each([&](std::size_t i) {
    parameters_[i] = make_rounding_parameters(original_[i], *schemes_[i]);
    if (!importance.empty()) search_scales(original_[i], parameters_[i], *schemes_[i], importance[i]);
    optimizers_[i] = make_optimizer(settings.optimizer, settings.momentum);
    take_gradients_of(i);
  });
}

TuningState::~TuningState() {
  for (std::size_t i = 0; i < chain_.size(); ++i) {
    if (chain_.linear(i).weight.defined()) chain_.linear(i).weight = chain_.linear(i).weight.detach();
    chain_.linear(i).take_gradient = {};
  }
}

// All layers have the first one's: the weights are looked through once.
void TuningState::share_global_scale(const std::vector<torch::Tensor>& quantized) {
  float global_scale = 0;
  for_each([&](std::size_t i) {
    schemes_[i]->global_scale = global_scale;
    schemes_[i] = with_global_scale(*schemes_[i], quantized);
    global_scale = schemes_[i]->global_scale;
  });
}

void TuningState::take_gradients_of(std::size_t layer) {
  Linear& linear = chain_.linear(layer);
  // A weight of its own: the block may share its tensor with the original one.
  linear.weight = torch::empty_like(linear.weight).requires_grad_(true);
  linear.take_gradient = [this, place = place_[layer]](const torch::Tensor& gradient) {
    arena_->take(place, gradient);
    sum_->whole(place);
  };
}

void TuningState::fake_quantize_weights() {
  for_each([&](std::size_t i) {
    torch::Tensor target = chain_.linear(i).weight.detach();
    fake_quantize(original_[i], parameters_[i], *schemes_[i], target);
  });
}

void TuningState::step(std::int64_t iteration) {
  const double factor = schedule_factor(settings_.lr_scheduler, iteration, settings_.iters);
  for_each([&](std::size_t i) {
    const double lr =
        settings_.lr > 0 ? settings_.lr : default_lr(settings_.optimizer, schemes_[i]->bits, settings_.iters);
    const double minmax_lr = settings_.minmax_lr > 0 ? settings_.minmax_lr : lr;
    const StepSize size{static_cast<float>(lr * factor),
                        settings_.enable_minmax_tuning ? static_cast<float>(minmax_lr * factor) : 0.0f};
    optimizers_[i]->step(original_[i], parameters_[i], *schemes_[i], arena_->gradient(place_[i]), size);
  });
}

void TuningState::keep_if_best() {
  const torch::Tensor loss = arena_->loss();
  const torch::Tensor better = loss < least_loss_;
  least_loss_ = torch::where(better, loss, least_loss_);
  for_each([&](std::size_t i) {
    if (best_[i]) {
      quantize_where(better, original_[i], parameters_[i], *schemes_[i], *best_[i]);
    } else {
      best_[i] = quantize(original_[i], parameters_[i], *schemes_[i]);
    }
  });
}

void TuningState::keep() {
  for_each([&](std::size_t i) { best_[i] = quantize(original_[i], parameters_[i], *schemes_[i]); });
}

StepGradients TuningState::gradients(std::int64_t iteration) const {
  StepGradients out{iteration, arena_->loss().item<float>(), {}, {}};
  for_each([&](std::size_t i) {
    out.names.push_back(chain_.name(chain_.linear(i)));
    out.gradients.push_back(arena_->gradient(place_[i]));
  });
  return out;
}

}  // namespace roundtable
