// Layers, their parameters, and the arena that their gradients share.
#include "tune/tuning_state.h"

#include <torch/types.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <utility>

#include "base/error.h"
#include "model/load/stacked_rows.h"

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
    : chain_(chain), schemes_(unit.schemes), settings_(settings) {
  RT_CHECK(unit.original.size() == chain.size() && schemes_.size() == chain.size());
  RT_CHECK(importance.empty() || importance.size() == chain.size());
  for (std::size_t i = 0; i < schemes_.size(); ++i) {
    if (!unit.original[i].defined()) schemes_[i].reset();  // another rank holds this expert, and tunes it
  }
  order_layers();
  if (!share_global_scale(unit.original)) return;
  std::vector<torch::Tensor> in_order;
  for (const std::size_t layer : order_) in_order.push_back(unit.original[layer]);
  const auto alone = std::count_if(order_.begin(), order_.end(), [&](std::size_t layer) { return !is_summed(layer); });
  arena_.emplace(in_order, chain.blocks().front()->device(), static_cast<std::size_t>(alone));
  sum_.emplace(arena_->whole(), parts_in_forward_order(), settings.gradient_type, group, settings.bucket_bytes);
  least_loss_ = torch::full({}, std::numeric_limits<float>::infinity(), arena_->whole().options());
  make_matrices(unit.original);
  give_up_weights();
  for (Matrix& matrix : matrices_) {
    matrix.weight = torch::empty(matrix.original.sizes(), matrix.original.options().dtype(matrix.dtype));
    if (!importance.empty()) search_scales_of(matrix, importance);
    give_weights(matrix);
  }
}

TuningState::~TuningState() {
  for (std::size_t i = 0; i < chain_.size(); ++i) {
    if (chain_.linear(i).weight.defined()) chain_.linear(i).weight = chain_.linear(i).weight.detach();
    chain_.linear(i).take_gradient = {};
    chain_.linear(i).gradient_taken = {};
  }
}

void TuningState::order_layers() {
  place_.resize(schemes_.size());
  turn_.resize(schemes_.size());
  std::size_t turns = 0;
  for (std::size_t i = 0; i < schemes_.size(); ++i) {
    if (!schemes_[i]) continue;
    if (is_summed(i)) turn_[i] = turns++;
    order_.push_back(i);
  }
  std::stable_partition(order_.begin(), order_.end(), [&](std::size_t i) { return chain_.linear(i).expert >= 0; });
  for (std::size_t place = 0; place < order_.size(); ++place) place_[order_[place]] = place;
}

// Where ranks divide the experts, a rank has the whole gradients of its own.
bool TuningState::is_summed(std::size_t layer) const {
  return chain_.exchange() == nullptr || chain_.linear(layer).expert < 0;
}

// All layers have the first one's: the weights are looked through once. Where ranks divide experts, all have that of the
// largest weight of any. Returns whether any rank has a layer to tune: then all take part.
bool TuningState::share_global_scale(const std::vector<torch::Tensor>& original) {
  std::vector<torch::Tensor> quantized;
  for (const std::size_t layer : order_) quantized.push_back(original[layer]);
  float global_scale = order_.empty() ? 0 : with_global_scale(*schemes_[order_.front()], quantized).global_scale;
  bool any = !order_.empty();
  if (const ExpertExchange* exchange = chain_.exchange()) {
    const auto bits = static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(global_scale));  // in the order of floats
    for (const std::vector<std::int64_t>& rank : exchange->group.all_gather({any, bits})) {
      any = any || rank[0] != 0;
      const auto other = std::bit_cast<float>(static_cast<std::uint32_t>(rank[1]));
      if (other > 0 && (global_scale == 0 || other < global_scale)) global_scale = other;
    }
  }
  for (const std::size_t layer : order_) {
    schemes_[layer]->global_scale = global_scale;
    schemes_[layer] = with_global_scale(*schemes_[layer], quantized);
  }
  return any;
}

std::vector<ArenaPart> TuningState::parts_in_forward_order() const {
  std::vector<ArenaPart> parts;
  for (const std::size_t layer : order_) {
    if (!is_summed(layer)) continue;
    if (parts.size() <= turn_[layer]) parts.resize(turn_[layer] + 1);
    parts[turn_[layer]] = arena_->parts()[place_[layer]];
  }
  return parts;
}

bool TuningState::are_alike(std::size_t a, std::size_t b, const std::vector<torch::Tensor>& original) const {
  const Linear &x = chain_.linear(a), &y = chain_.linear(b);
  return schemes_[a] == schemes_[b] && original[a].size(1) == original[b].size(1) &&
         original[a].scalar_type() == original[b].scalar_type() &&
         x.weight.scalar_type() == y.weight.scalar_type() && (x.expert >= 0) == (y.expert >= 0);
}

void TuningState::make_matrices(const std::vector<torch::Tensor>& original) {
  constexpr std::int64_t kMostWeights = std::int64_t{1} << 30;  // a kernel on a device counts threads in 32 bits
  // Optimizers with a memory are made of LibTorch's operations, which need room for several copies of a matrix.
  const bool fused = settings_.optimizer == OptimizerKind::kSignRound && settings_.momentum == 0;
  for (std::size_t first = 0; first < order_.size();) {
    std::int64_t weights = original[order_[first]].numel();
    std::size_t last = first + 1;
    while (fused && last < order_.size() && are_alike(order_[first], order_[last], original) &&
           weights + original[order_[last]].numel() <= kMostWeights) {
      weights += original[order_[last++]].numel();
    }
    matrices_.push_back(make_matrix(first, last, original));
    first = last;
  }
}

TuningState::Matrix TuningState::make_matrix(std::size_t first, std::size_t last,
                                             const std::vector<torch::Tensor>& original) const {
  std::vector<torch::Tensor> parts;
  for (std::size_t place = first; place < last; ++place) parts.push_back(original[order_[place]]);
  Matrix matrix{.first = first, .last = last, .scheme = *schemes_[order_[first]], .original = stacked(parts)};
  matrix.gradient = arena_->stacked_gradients(first, last);
  matrix.dtype = chain_.linear(order_[first]).weight.scalar_type();
  matrix.parameters = make_rounding_parameters(matrix.original, matrix.scheme);
  matrix.optimizer = make_optimizer(settings_.optimizer, settings_.momentum);
  return matrix;
}

// A layer gets a weight of its own, since the block may share its tensor with the original one. Before these are made the
// others go, all of them, for many share one memory: there are never both.
void TuningState::give_up_weights() {
  for (const std::size_t layer : order_) chain_.linear(layer).weight = torch::Tensor();
}

// Layer by layer: each has its own importance.
void TuningState::search_scales_of(Matrix& matrix, const std::vector<torch::Tensor>& importance) const {
  for_each_layer(matrix, [&](std::size_t layer, std::int64_t row, std::int64_t rows) {
    const auto part = [&](const torch::Tensor& whole) { return whole.narrow(0, row, rows); };
    const RoundingParameters& all = matrix.parameters;
    RoundingParameters own{part(all.v), part(all.min_scale), part(all.max_scale), part(all.wmin), part(all.wmax)};
    search_scales(part(matrix.original), own, matrix.scheme, importance[layer]);
  });
}

void TuningState::give_weights(const Matrix& matrix) {
  for_each_layer(matrix, [&](std::size_t layer, std::int64_t row, std::int64_t rows) {
    Linear& linear = chain_.linear(layer);
    linear.weight = matrix.weight.narrow(0, row, rows).detach().requires_grad_(true);
    linear.take_gradient = [this, layer](const torch::Tensor& gradient) { arena_->take(place_[layer], gradient); };
    if (is_summed(layer)) linear.gradient_taken = [this, layer] { sum_->whole(turn_[layer]); };
  });
}

void TuningState::fake_quantize_weights() {
  for (Matrix& matrix : matrices_) fake_quantize(matrix.original, matrix.parameters, matrix.scheme, matrix.weight);
}

void TuningState::step(std::int64_t iteration) {
  const double factor = schedule_factor(settings_.lr_scheduler, iteration, settings_.iters);
  for (Matrix& matrix : matrices_) {
    const double lr =
        settings_.lr > 0 ? settings_.lr : default_lr(settings_.optimizer, matrix.scheme.bits, settings_.iters);
    const double minmax_lr = settings_.minmax_lr > 0 ? settings_.minmax_lr : lr;
    const StepSize size{static_cast<float>(lr * factor),
                        settings_.enable_minmax_tuning ? static_cast<float>(minmax_lr * factor) : 0.0f,
                        static_cast<float>(settings_.minmax_scale_bound)};
    matrix.optimizer->step(matrix.original, matrix.parameters, matrix.scheme, matrix.gradient, size);
  }
}

void TuningState::keep_if_best() {
  const torch::Tensor loss = arena_->loss();
  const torch::Tensor better = loss < least_loss_;
  least_loss_ = torch::where(better, loss, least_loss_);
  for (Matrix& matrix : matrices_) {
    if (matrix.best) {
      quantize_where(better, matrix.original, matrix.parameters, matrix.scheme, *matrix.best);
    } else {
      matrix.best = quantize(matrix.original, matrix.parameters, matrix.scheme);
    }
  }
}

void TuningState::keep() {
  for (Matrix& matrix : matrices_) matrix.best = quantize(matrix.original, matrix.parameters, matrix.scheme);
}

std::vector<std::optional<QuantizedWeight>> TuningState::take_best() {
  std::vector<std::optional<QuantizedWeight>> best(chain_.size());
  for (Matrix& matrix : matrices_) {
    RT_CHECK(matrix.best);
    const QuantizedWeight all = *std::exchange(matrix.best, std::nullopt);
    for_each_layer(matrix, [&](std::size_t layer, std::int64_t row, std::int64_t rows) {
      const auto part = [&](const torch::Tensor& whole) { return whole.narrow(0, row, rows); };
      best[layer] = {all.scheme, part(all.q), part(all.scale), part(all.zero_point)};
    });
  }
  return best;
}

StepGradients TuningState::gradients(std::int64_t iteration) const {
  StepGradients out{iteration, arena_->loss().item<float>(), {}, {}};
  for (std::size_t i = 0; i < schemes_.size(); ++i) {
    if (!schemes_[i]) continue;
    out.names.push_back(chain_.name(chain_.linear(i)));
    out.gradients.push_back(arena_->gradient(place_[i]));
  }
  return out;
}

}  // namespace roundtable
