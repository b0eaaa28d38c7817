// The tuning loop of a block.
#include "tune/block_tuner.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/activity.h"
#include "base/error.h"
#include "tune/gradients/gradient_arena.h"
#include "tune/gradients/gradient_sum.h"
#include "tune/losses/mse.h"
#include "tune/step_reports.h"

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
              const TuneSettings& settings, const GradientGroup& group, const std::vector<torch::Tensor>& importance)
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
    best_.resize(schemes.size());
    if (quantized.empty()) return;
    place_.resize(schemes.size());
    std::size_t next = 0;
    for_each([&](std::size_t i) { place_[i] = next++; });
    arena_.emplace(quantized);
    parameters_.resize(schemes.size());
    optimizers_.resize(schemes.size());
    for_each([&](std::size_t i) {
      parameters_[i] = make_rounding_parameters(original[i], *schemes_[i]);
      if (!importance.empty()) search_scales(original[i], parameters_[i], *schemes_[i], importance[i]);
      optimizers_[i] = make_optimizer(settings.optimizer, settings.momentum);
      Linear& linear = chain.linear(i);
      // A weight of its own: the block may share its tensor with `original`.
      linear.weight = torch::empty_like(linear.weight).requires_grad_(true);
      linear.take_gradient = [this, layer = place_[i]](const torch::Tensor& gradient) {
        arena_->take(layer, gradient);
        sum_->whole(layer);
      };
    });
    least_loss_ = torch::full({}, std::numeric_limits<float>::infinity(), arena_->whole().options());
    sum_.emplace(arena_->whole(), arena_->starts(), settings.gradient_type, group, settings.bucket_bytes);
  }

  // Gradients are of no use once the blocks are tuned; the arena goes with this object.
  ~TuningState() {
    for (std::size_t i = 0; i < chain_.size(); ++i) {
      chain_.linear(i).weight = chain_.linear(i).weight.detach();
      chain_.linear(i).take_gradient = {};
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
  bool empty() const { return !arena_; }

  // Of a state that is not empty.
  GradientArena& arena() { return *arena_; }
  BucketedSum& sum() { return *sum_; }
  ReductionFigures figures() const { return sum_ ? sum_->figures() : ReductionFigures{}; }

  void step(std::int64_t iteration) {
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

  // Keeps the present parameters' integers where their loss is the least so far; decided where the weights are.
  void keep_if_best() {
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

  void keep() {
    for_each([&](std::size_t i) { best_[i] = quantize(original_[i], parameters_[i], *schemes_[i]); });
  }

  std::vector<std::optional<QuantizedWeight>> take_best() { return std::move(best_); }

  StepGradients gradients(std::int64_t iteration) const {
    StepGradients out{iteration, arena_->loss().item<float>(), {}, {}};
    for_each([&](std::size_t i) {
      out.names.push_back(chain_.name(chain_.linear(i)));
      out.gradients.push_back(arena_->gradient(place_[i]));
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
  std::vector<std::size_t> place_;  // of a layer among those that are quantized
  std::optional<GradientArena> arena_;
  torch::Tensor least_loss_;  // one number, where the weights are
  std::vector<std::optional<QuantizedWeight>> best_;
  std::optional<BucketedSum> sum_;
};

// The rows in `samples` that this rank has of each step, where the samples are: sent there once, since each sending would
// have the device wait for the host.
class StepRows {
 public:
  StepRows(const BlockSamples& samples, const Sampler& sampler, std::int64_t iters) : batch_(sampler.batch()) {
    std::vector<std::int64_t> all;
    for (std::int64_t i = 0; i < iters; ++i) {
      starts_.push_back(static_cast<std::int64_t>(all.size()));
      for (const std::int64_t sample : sampler.step(i)) {
        if (samples.range.contains(sample)) all.push_back(sample - samples.range.begin);
      }
    }
    starts_.push_back(static_cast<std::int64_t>(all.size()));
    rows_ = torch::tensor(all, torch::kInt64).to(samples.input.device());
  }

  std::size_t count(std::int64_t step) const { return static_cast<std::size_t>(start(step + 1) - start(step)); }
  torch::Tensor some(std::int64_t step, std::size_t first, std::size_t last) const {
    return rows_.narrow(0, start(step) + static_cast<std::int64_t>(first), static_cast<std::int64_t>(last - first));
  }
  std::int64_t batch() const { return batch_; }  // samples of a step, over all ranks

 private:
  std::int64_t start(std::int64_t step) const { return starts_[static_cast<std::size_t>(step)]; }

  std::int64_t batch_;
  std::vector<std::int64_t> starts_;
  torch::Tensor rows_;
};

// Forward and backward over some rows, loss and gradients into the arena; returns their part of the loss: the sum of
// squared errors over `elements`, the number of output elements of the whole batch of all ranks (SignRound, equation
// 5), in fp32.
torch::Tensor run_rows(TuningState& state, const Chain& chain, const BlockSamples& samples, const BlockContext& context,
                       const torch::Tensor& rows, double elements) {
  const torch::Tensor input = samples.input.index_select(0, rows).to(chain.linear(0).weight.device());
  const torch::Tensor output = chain.forward(input, context);
  // The gradient by hand: autograd would keep fp32 copies of the activations for it.
  const SquaredError error = squared_error(output, samples.target, rows, 1.0 / elements);
  state.arena().add_loss(error.loss);  // before the pass back, on which the first bucket leaves
  output.backward(error.gradient);
  return error.loss;
}

// Leaves the gradients and the loss of a step in the arena, and returns this rank's part of the loss. Collective over
// `group`.
torch::Tensor sum_step(TuningState& state, const Chain& chain, const BlockSamples& samples, const BlockContext& context,
                       const StepRows& rows, std::int64_t step, const TuneSettings& settings, const GradientGroup& group,
                       const std::function<bool()>& wants_to_leave) {
  const auto elements = static_cast<double>(rows.batch()) * static_cast<double>(samples.target[0].numel());
  torch::Tensor part;
  const auto add = [&](std::size_t first, std::size_t last) {
    // Once a step, in the one reduction that there is: any rank's wish is all ranks' leave.
    if (first == 0 && wants_to_leave && wants_to_leave()) state.arena().vote_to_leave();
    const torch::Tensor loss = run_rows(state, chain, samples, context, rows.some(step, first, last), elements);
    part = part.defined() ? part + loss : loss;
    note_progress();
  };
  const std::size_t mine = rows.count(step);
  if (settings.reproducible) {
    sum_gradients_by_tree(state.arena(), mine, add, group);
  } else {
    const auto width = static_cast<std::size_t>(settings.micro_batch);
    sum_gradients(state.arena(), mine, width > 0 ? width : std::max<std::size_t>(1, mine), add, state.sum());
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
                                    const StepReport& report) {
  const std::string layer = first_broken_layer(chain, samples, context);
  const bool own = report.own_part.defined() && !report.own_part.isfinite().item<bool>();
  throw BrokenLoss(fmt::format("the loss is {} at iteration {}, beginning with {}; check the calibration tokens, or lower "
                               "tuning.lr",
                               report.loss, report.iteration,
                               layer.empty() ? "the loss itself (the layers' outputs are finite)" : "layer " + layer),
                   !layer.empty() || own);
}

// The host's own account of the best iterate: the same comparisons as keep_if_best().
void note_loss(TunedBlock& tuned, float loss, const TuneSettings& settings) {
  const auto i = static_cast<std::int64_t>(tuned.losses.size());
  tuned.losses.push_back(loss);
  if (i == 0 || loss < tuned.best_loss() || settings.not_use_mse) tuned.best_iteration = i;
}

// The reference's early stop, which has no say where the last parameters are wanted.
bool stalls(const TunedBlock& tuned, const TuneSettings& settings) {
  const auto last = static_cast<std::int64_t>(tuned.losses.size()) - 1;
  return !settings.not_use_mse && settings.dynamic_max_gap > 0 &&
         last - tuned.best_iteration >= settings.dynamic_max_gap;
}

// All iterations. On a device they are enqueued without waiting for their losses, but for those that an early stop hangs
// on.
void run_iterations(TuningState& state, const Chain& chain, const BlockSamples& samples, const BlockContext& context,
                    const Sampler& sampler, const TuneSettings& settings, const GradientGroup& group,
                    const TuneObserver& observer, TunedBlock& tuned) {
  const torch::Device device = state.arena().whole().device();
  const bool late = settings.late_reports.value_or(device.is_cuda()) && settings.dynamic_max_gap < 1;
  const StepRows rows(samples, sampler, settings.iters);
  StepReports reports(device, late);
  const auto learn = [&](const std::optional<StepReport>& report) {
    if (!report) return;
    if (report->leave) throw AgreedError(ExitCode::kStartAgain, "asked to leave");
    if (!std::isfinite(report->loss)) throw_broken_loss(chain, samples, context, *report);
    note_loss(tuned, report->loss, settings);
    if (observer.on_iteration) observer.on_iteration(report->iteration, tuned.first_loss(), tuned.best_loss());
  };
  for (std::int64_t i = 0; i < settings.iters; ++i) {
    state.fake_quantize_weights();
    torch::Tensor part =
        sum_step(state, chain, samples, context, rows, i, settings, group, observer.wants_to_leave);
    learn(reports.put(i, state.arena().tail(), std::move(part)));
    if (observer.on_gradients) observer.on_gradients(state.gradients(i));
    // Before the step: the loss belongs to these parameters.
    if (!settings.not_use_mse) {
      state.keep_if_best();
    } else if (i + 1 == settings.iters) {
      state.keep();
    }
    if (stalls(tuned, settings)) break;
    state.step(i);
  }
  learn(reports.last());
}

}  // namespace

TunedBlock tune_blocks(const std::vector<DecoderBlock*>& blocks, const std::vector<torch::Tensor>& original,
                       const BlockSchemes& schemes, const BlockSamples& samples, const BlockContext& context,
                       const Sampler& sampler, const TuneSettings& settings, const GradientGroup& group,
                       const TuneObserver& observer) {
  const Chain chain(blocks);
  TunedBlock tuned;
  {
    TuningState state(chain, original, schemes, settings, group, samples.importance);
    if (state.empty() || settings.iters == 0) {
      state.keep();
    } else {
      run_iterations(state, chain, samples, context, sampler, settings, group, observer, tuned);
    }
    tuned.weights = state.take_best();
    tuned.reduction = state.figures();
  }
  for (std::size_t i = 0; i < tuned.weights.size(); ++i) {
    torch::Tensor& weight = chain.linear(i).weight;
    if (tuned.weights[i]) weight = dequantize(*tuned.weights[i], weight.scalar_type());
  }
  return tuned;
}

TunedBlock tune_block(DecoderBlock& block, const std::vector<torch::Tensor>& original, const BlockSchemes& schemes,
                      const BlockSamples& samples, const BlockContext& context, const Sampler& sampler,
                      const TuneSettings& settings, const GradientGroup& group, const TuneObserver& observer) {
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
