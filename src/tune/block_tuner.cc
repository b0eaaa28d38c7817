// The tuning loop of a block.
#include "tune/block_tuner.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>

#include "base/activity.h"
#include "base/error.h"
#include "tune/gradient_sum.h"
#include "tune/mse.h"

namespace roundtable {
namespace {

// Consecutive blocks as one: x -> block -> block -> ... (auto-round's WrapperMultiblock).
class Chain {
 public:
  explicit Chain(const std::vector<DecoderBlock*>& blocks) : blocks_(blocks) {
    for (DecoderBlock* block : blocks) {
      for (Linear& linear : block->linears()) linears_.push_back(&linear);
    }
  }

  torch::Tensor forward(torch::Tensor hidden, const BlockContext& context) const {
    for (const DecoderBlock* block : blocks_) hidden = block->forward(hidden, context);
    return hidden;
  }

  Linear& linear(std::size_t i) const { return *linears_[i]; }
  std::size_t size() const { return linears_.size(); }

  // "mlp.up_proj", or "1.mlp.up_proj" with the block's place where there are several.
  std::string name(const Linear& linear) const {
    if (blocks_.size() == 1) return linear.name;
    const auto place = std::find(linears_.begin(), linears_.end(), &linear) - linears_.begin();
    return fmt::format("{}.{}", static_cast<std::size_t>(place) / blocks_.front()->linears().size(), linear.name);
  }

  const std::vector<DecoderBlock*>& blocks() const { return blocks_; }

 private:
  std::vector<DecoderBlock*> blocks_;
  std::vector<Linear*> linears_;
};

// The quantized linear layers of the blocks with their parameters and the arena that their gradients share.
class TuningState {
 public:
  TuningState(const Chain& chain, const std::vector<torch::Tensor>& original, const BlockSchemes& schemes,
              const TuneSettings& settings, Communicator& group, const std::vector<torch::Tensor>& importance)
      : chain_(chain), original_(original), schemes_(schemes), settings_(settings) {
    RT_CHECK(original.size() == chain.size() && schemes.size() == chain.size());
    RT_CHECK(importance.empty() || importance.size() == chain.size());
    std::vector<torch::Tensor> quantized;
    for_each([&](std::size_t i) { quantized.push_back(original[i]); });
    float global_scale = 0;  // the first layer's is all others': the weights are looked through once
    for_each([&](std::size_t i) {
      schemes_[i]->global_scale = global_scale;
      schemes_[i] = with_global_scale(*schemes_[i], quantized);
      global_scale = schemes_[i]->global_scale;
    });
    std::int64_t total = 0;
    for_each([&](std::size_t i) { total += original[i].numel(); });
    // One buffer, one reduction: the gradients, the number of ranks that want to leave, and in the last place the loss.
    arena_ = torch::zeros({total + 2}, original.front().options().dtype(torch::kFloat32));
    std::vector<std::int64_t> starts;
    std::int64_t offset = 0;
    parameters_.resize(schemes.size());
    optimizers_.resize(schemes.size());
    for_each([&](std::size_t i) {
      parameters_[i] = make_rounding_parameters(original[i], *schemes_[i]);
      if (!importance.empty()) search_scales(original[i], parameters_[i], *schemes_[i], importance[i]);
      optimizers_[i] = make_optimizer(settings.optimizer, settings.momentum);
      Linear& linear = chain.linear(i);
      // A weight of its own: the block may share its tensor with `original`.
      linear.weight = torch::empty_like(linear.weight).requires_grad_(true);
      linear.weight_gradient = arena_.narrow(0, offset, original[i].numel()).view_as(original[i]);
      linear.on_gradient = [this, layer = starts.size()] { sum_->whole(layer); };
      starts.push_back(offset);
      offset += original[i].numel();
    });
    sum_.emplace(arena_, std::move(starts), settings.gradient_type, group, settings.bucket_bytes);
  }

  // Gradients are of no use once the blocks are tuned; the arena goes with this object.
  ~TuningState() {
    for (std::size_t i = 0; i < chain_.size(); ++i) {
      chain_.linear(i).weight = chain_.linear(i).weight.detach();
      chain_.linear(i).weight_gradient = torch::Tensor();
      chain_.linear(i).on_gradient = {};
    }
  }
  TuningState(const TuningState&) = delete;
  TuningState& operator=(const TuningState&) = delete;

  void fake_quantize_weights() {
    for_each([&](std::size_t i) {
      torch::Tensor target = chain_.linear(i).weight.detach();
      fake_quantize(original_[i], parameters_[i], *schemes_[i], target);
    });
  }

  // No layer is quantized: nothing to tune.
  bool empty() const { return arena_.numel() == 2; }

  // The gradients of all layers, and the loss in the last place.
  torch::Tensor& arena() { return arena_; }
  BucketedSum& sum() { return *sum_; }
  void add_loss(double loss) { arena_[-1] += loss; }
  void vote_to_leave() { arena_[-2] = 1.0; }
  float loss() const { return arena_[-1].item<float>(); }
  bool leaves() const { return arena_[-2].item<float>() > 0; }

  void step(std::int64_t iteration) {
    const double factor = schedule_factor(settings_.lr_scheduler, iteration, settings_.iters);
    for_each([&](std::size_t i) {
      const double lr =
          settings_.lr > 0 ? settings_.lr : default_lr(settings_.optimizer, schemes_[i]->bits, settings_.iters);
      const double minmax_lr = settings_.minmax_lr > 0 ? settings_.minmax_lr : lr;
      const StepSize size{static_cast<float>(lr * factor),
                          settings_.enable_minmax_tuning ? static_cast<float>(minmax_lr * factor) : 0.0f};
      optimizers_[i]->step(original_[i], parameters_[i], *schemes_[i], chain_.linear(i).weight_gradient, size);
    });
  }

  std::vector<std::optional<QuantizedWeight>> snapshot() const {
    std::vector<std::optional<QuantizedWeight>> weights(schemes_.size());
    for_each([&](std::size_t i) { weights[i] = quantize(original_[i], parameters_[i], *schemes_[i]); });
    return weights;
  }

  StepGradients gradients(std::int64_t iteration) const {
    StepGradients out{iteration, loss(), {}, {}};
    for_each([&](std::size_t i) {
      out.names.push_back(chain_.name(chain_.linear(i)));
      out.gradients.push_back(chain_.linear(i).weight_gradient);
    });
    return out;
  }

 private:
  template <class Body>
  void for_each(const Body& body) const {
    for (std::size_t i = 0; i < schemes_.size(); ++i) {
      if (schemes_[i]) body(i);
    }
  }

  const Chain& chain_;
  const std::vector<torch::Tensor>& original_;
  BlockSchemes schemes_;
  const TuneSettings& settings_;
  std::vector<RoundingParameters> parameters_;
  std::vector<std::unique_ptr<RoundingOptimizer>> optimizers_;
  torch::Tensor arena_;
  std::optional<BucketedSum> sum_;
};

// The rows in `samples` of those of a step's samples that this rank has.
std::vector<std::int64_t> own_rows(const BlockSamples& samples, const std::vector<std::int64_t>& batch) {
  std::vector<std::int64_t> rows;
  for (const std::int64_t sample : batch) {
    if (samples.range.contains(sample)) rows.push_back(sample - samples.range.begin);
  }
  return rows;
}

// Forward and backward over some rows, loss and gradients into the arena; returns their part of the loss: the sum of
// squared errors over `elements`, the number of output elements of the whole batch of all ranks (SignRound, equation
// 5), in fp32.
double run_rows(TuningState& state, const Chain& chain, const BlockSamples& samples, const BlockContext& context,
                const std::vector<std::int64_t>& rows, double elements) {
  const torch::Tensor index = torch::tensor(rows).to(samples.input.device());
  const torch::Tensor input = samples.input.index_select(0, index).to(chain.linear(0).weight.device());
  const torch::Tensor output = chain.forward(input, context);
  // The gradient by hand: autograd would keep fp32 copies of the activations for it.
  const SquaredError error = squared_error(output, samples.target, rows, 1.0 / elements);
  state.add_loss(error.loss);  // before the pass back, on which the first bucket leaves
  output.backward(error.gradient);
  return error.loss;
}

// Leaves the gradients and the loss of a step in the arena, and returns this rank's part of the loss. Collective over
// `group`.
double sum_step(TuningState& state, const Chain& chain, const BlockSamples& samples, const BlockContext& context,
                const std::vector<std::int64_t>& batch, const TuneSettings& settings, Communicator& group,
                const std::function<bool()>& wants_to_leave) {
  const std::vector<std::int64_t> rows = own_rows(samples, batch);
  const auto elements = static_cast<double>(batch.size()) * static_cast<double>(samples.target[0].numel());
  double part = 0;
  const auto add = [&](std::size_t first, std::size_t last) {
    const std::vector<std::int64_t> some(rows.begin() + static_cast<std::ptrdiff_t>(first),
                                         rows.begin() + static_cast<std::ptrdiff_t>(last));
    // Once a step, in the one reduction that there is: any rank's wish is all ranks' leave.
    if (first == 0 && wants_to_leave && wants_to_leave()) state.vote_to_leave();
    part += run_rows(state, chain, samples, context, some, elements);
    note_progress();
  };
  if (settings.reproducible) {
    sum_gradients_by_tree(state.arena(), rows.size(), add, group);
  } else {
    const auto width = static_cast<std::size_t>(settings.micro_batch);
    sum_gradients(state.arena(), rows.size(), width > 0 ? width : std::max<std::size_t>(1, rows.size()), add,
                  state.sum());
  }
  return part;
}

// The first linear layer, in the order of the data, whose output on this rank's samples is not finite; or empty.
std::string first_broken_layer(const Chain& chain, const BlockSamples& samples, const BlockContext& context) {
  std::string broken;
  torch::Tensor hidden = samples.input;
  for (DecoderBlock* block : chain.blocks()) {
    block->set_observer([&](const Linear& linear, const torch::Tensor&, const torch::Tensor& y) {
      if (broken.empty() && !y.isfinite().all().item<bool>()) broken = chain.name(linear);
    });
    hidden = run_block(*block, hidden, context, 1);
    block->set_observer({});
  }
  return broken;
}

// All ranks of the group see the same loss and throw together, each with its own finding.
[[noreturn]] void throw_broken_loss(const Chain& chain, const BlockSamples& samples, const BlockContext& context,
                                    std::int64_t iteration, float loss, double own_part) {
  const std::string layer = first_broken_layer(chain, samples, context);
  throw BrokenLoss(fmt::format("the loss is {} at iteration {}, beginning with {}; check the calibration tokens, or lower "
                               "tuning.lr",
                               loss, iteration,
                               layer.empty() ? "the loss itself (the layers' outputs are finite)" : "layer " + layer),
                   !layer.empty() || !std::isfinite(own_part));
}

// Notes the loss of an iteration; where its parameters are to be kept, they are.
void keep_best(TunedBlock& tuned, float loss, const TuningState& state, const TuneSettings& settings) {
  const auto i = static_cast<std::int64_t>(tuned.losses.size());
  tuned.losses.push_back(loss);
  const bool better = i == 0 || loss < tuned.best_loss();
  if (!better && !settings.not_use_mse) return;
  tuned.best_iteration = i;
  if (!settings.not_use_mse || i + 1 == settings.iters) tuned.weights = state.snapshot();
}

// The reference's early stop, which has no say where the last parameters are wanted.
bool stalls(const TunedBlock& tuned, const TuneSettings& settings) {
  const auto last = static_cast<std::int64_t>(tuned.losses.size()) - 1;
  return !settings.not_use_mse && settings.dynamic_max_gap > 0 &&
         last - tuned.best_iteration >= settings.dynamic_max_gap;
}

}  // namespace

TunedBlock tune_blocks(const std::vector<DecoderBlock*>& blocks, const std::vector<torch::Tensor>& original,
                       const BlockSchemes& schemes, const BlockSamples& samples, const BlockContext& context,
                       const Sampler& sampler, const TuneSettings& settings, Communicator& group,
                       const TuneObserver& observer) {
  const Chain chain(blocks);
  TunedBlock tuned;
  {
    TuningState state(chain, original, schemes, settings, group, samples.importance);
    const std::int64_t iters = state.empty() ? 0 : settings.iters;
    if (iters == 0) tuned.weights = state.snapshot();
    for (std::int64_t i = 0; i < iters; ++i) {
      state.fake_quantize_weights();
      const double part = sum_step(state, chain, samples, context, sampler.step(i), settings, group, observer.wants_to_leave);
      if (state.leaves()) throw AgreedError(ExitCode::kStartAgain, "asked to leave");
      const float loss = state.loss();
      if (!std::isfinite(loss)) throw_broken_loss(chain, samples, context, i, loss, part);
      if (observer.on_gradients) observer.on_gradients(state.gradients(i));
      // Before the step: the loss belongs to these parameters.
      keep_best(tuned, loss, state, settings);
      if (stalls(tuned, settings)) break;
      state.step(i);
      if (observer.on_iteration) observer.on_iteration(i, tuned.first_loss(), tuned.best_loss());
    }
    tuned.reduction = state.sum().figures();
  }
  for (std::size_t i = 0; i < tuned.weights.size(); ++i) {
    torch::Tensor& weight = chain.linear(i).weight;
    if (tuned.weights[i]) weight = dequantize(*tuned.weights[i], weight.scalar_type());
  }
  return tuned;
}

TunedBlock tune_block(DecoderBlock& block, const std::vector<torch::Tensor>& original, const BlockSchemes& schemes,
                      const BlockSamples& samples, const BlockContext& context, const Sampler& sampler,
                      const TuneSettings& settings, Communicator& group, const TuneObserver& observer) {
  return tune_blocks({&block}, original, schemes, samples, context, sampler, settings, group, observer);
}

torch::Tensor run_block(const DecoderBlock& block, const torch::Tensor& hidden, const BlockContext& context,
                        std::int64_t micro_batch) {
  const torch::NoGradGuard no_gradients;
  const std::int64_t width = micro_batch > 0 ? micro_batch : 8;
  torch::Tensor out = torch::empty_like(hidden);
  for (std::int64_t first = 0; first < hidden.size(0); first += width) {
    const std::int64_t n = std::min(width, hidden.size(0) - first);
    const torch::Tensor input = hidden.narrow(0, first, n).to(block.linears().front().weight.device());
    out.narrow(0, first, n).copy_(block.forward(input, context));
    note_progress();
  }
  return out;
}

}  // namespace roundtable
