// The tuning loop of a block.
#include "tune/block_tuner.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "tune/mse.h"

namespace roundtable {
namespace {

// The quantized linear layers of a block with their parameters and the arena that their gradients share.
class TuningState {
 public:
  TuningState(DecoderBlock& block, const std::vector<torch::Tensor>& original, const BlockSchemes& schemes)
      : block_(block), original_(original), schemes_(schemes) {
    std::int64_t total = 0;
    for (std::size_t i = 0; i < schemes.size(); ++i) {
      if (schemes[i]) total += original[i].numel();
    }
    // One buffer, one reduction: the gradients, and in the last place the loss.
    arena_ = torch::zeros({total + 1}, original.front().options().dtype(torch::kFloat32));
    std::int64_t offset = 0;
    parameters_.resize(schemes.size());
    for (std::size_t i = 0; i < schemes.size(); ++i) {
      if (!schemes[i]) continue;
      parameters_[i] = make_rounding_parameters(original[i], *schemes[i]);
      Linear& linear = block.linears()[i];
      // A weight of its own: the block may share its tensor with `original`.
      linear.weight = torch::empty_like(linear.weight).requires_grad_(true);
      linear.weight_gradient = arena_.narrow(0, offset, original[i].numel()).view_as(original[i]);
      offset += original[i].numel();
    }
  }

  // Gradients are of no use once the block is tuned; the arena goes with this object.
  ~TuningState() {
    for (Linear& linear : block_.linears()) {
      linear.weight = linear.weight.detach();
      linear.weight_gradient = torch::Tensor();
    }
  }
  TuningState(const TuningState&) = delete;
  TuningState& operator=(const TuningState&) = delete;

  void fake_quantize_weights() {
    for_each([&](std::size_t i) {
      torch::Tensor target = block_.linears()[i].weight.detach();
      fake_quantize(original_[i], parameters_[i], *schemes_[i], target);
    });
  }

  // No layer is quantized: nothing to tune.
  bool empty() const { return arena_.numel() == 1; }

  void clear() { arena_.zero_(); }
  void set_loss(double loss) { arena_[-1] = loss; }
  void reduce(Communicator& group) { group.all_reduce_sum(arena_.data_ptr(), arena_.numel(), ElementType::kF32); }
  float loss() const { return arena_[-1].item<float>(); }

  void step(const StepSize& size) {
    for_each([&](std::size_t i) {
      sign_step(original_[i], parameters_[i], *schemes_[i], block_.linears()[i].weight_gradient, size);
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
      out.names.push_back(block_.linears()[i].name);
      out.gradients.push_back(block_.linears()[i].weight_gradient);
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

  DecoderBlock& block_;
  const std::vector<torch::Tensor>& original_;
  const BlockSchemes& schemes_;
  std::vector<RoundingParameters> parameters_;
  torch::Tensor arena_;
};

// Forward and backward over this rank's samples of a step, in micro-batches; returns its part of the loss:
// mean squared error over the whole batch of all ranks (SignRound, equation 5), in fp32.
double accumulate_gradients(const DecoderBlock& block, const BlockSamples& samples, const BlockContext& context,
                            const std::vector<std::int64_t>& batch, std::int64_t micro_batch) {
  std::vector<std::int64_t> mine;
  for (const std::int64_t sample : batch) {
    if (samples.range.contains(sample)) mine.push_back(sample - samples.range.begin);
  }
  const auto elements = static_cast<double>(batch.size()) * static_cast<double>(samples.target[0].numel());
  const auto width = micro_batch > 0 ? static_cast<std::size_t>(micro_batch) : std::max<std::size_t>(1, mine.size());
  double loss = 0;
  for (std::size_t first = 0; first < mine.size(); first += width) {
    const std::size_t last = std::min(mine.size(), first + width);
    const std::vector<std::int64_t> rows(mine.begin() + static_cast<std::ptrdiff_t>(first),
                                         mine.begin() + static_cast<std::ptrdiff_t>(last));
    const torch::Tensor index = torch::tensor(rows).to(samples.input.device());
    const torch::Tensor output = block.forward(samples.input.index_select(0, index), context);
    // The gradient by hand: autograd would keep fp32 copies of the activations for it.
    const SquaredError error = squared_error(output, samples.target, rows, 1.0 / elements);
    loss += error.loss;
    output.backward(error.gradient);
  }
  return loss;
}

// The first linear layer, in the order of the data, whose output on this rank's samples is not finite.
std::string first_broken_layer(DecoderBlock& block, const BlockSamples& samples, const BlockContext& context) {
  std::string broken;
  block.set_observer([&](const Linear& linear, const torch::Tensor& y) {
    if (broken.empty() && !y.isfinite().all().item<bool>()) broken = linear.name;
  });
  run_block(block, samples.input, context, 1);
  block.set_observer({});
  return broken.empty() ? "the loss itself (the layers' outputs are finite)" : "layer " + broken;
}

// All ranks of the group see the same loss and throw together, each with its own finding.
[[noreturn]] void throw_broken_loss(DecoderBlock& block, const BlockSamples& samples, const BlockContext& context,
                                    std::int64_t iteration, float loss) {
  throw AgreedError(ExitCode::kNumeric, fmt::format("the loss is {} at iteration {}, beginning with {}; check the "
                                                    "calibration tokens, or lower tuning.lr",
                                                    loss, iteration, first_broken_layer(block, samples, context)));
}

}  // namespace

TunedBlock tune_block(DecoderBlock& block, const std::vector<torch::Tensor>& original, const BlockSchemes& schemes,
                      const BlockSamples& samples, const BlockContext& context, const Sampler& sampler,
                      const TuneSettings& settings, Communicator& group, const TuneObserver& observer) {
  TunedBlock tuned;
  {
    TuningState state(block, original, schemes);
    const std::int64_t iters = state.empty() ? 0 : settings.iters;
    if (iters == 0) tuned.weights = state.snapshot();
    const double lr = settings.lr > 0 ? settings.lr : 1.0 / static_cast<double>(std::max<std::int64_t>(1, iters));
    const double minmax_lr = settings.minmax_lr > 0 ? settings.minmax_lr : lr;
    for (std::int64_t i = 0; i < iters; ++i) {
      state.fake_quantize_weights();
      state.clear();
      state.set_loss(accumulate_gradients(block, samples, context, sampler.step(i), settings.micro_batch));
      state.reduce(group);
      const float loss = state.loss();
      if (!std::isfinite(loss)) throw_broken_loss(block, samples, context, i, loss);
      if (observer.on_gradients) observer.on_gradients(state.gradients(i));

      tuned.losses.push_back(loss);
      const bool better = i == 0 || loss < tuned.best_loss();
      if (better || settings.not_use_mse) {
        tuned.best_iteration = i;
        // Before the step: the loss belongs to these parameters.
        if (!settings.not_use_mse || i + 1 == iters) tuned.weights = state.snapshot();
      }
      // lr falls linearly to 0 over the iterations.
      const double left = 1.0 - static_cast<double>(i) / static_cast<double>(iters);
      state.step(
          {static_cast<float>(lr * left), settings.enable_minmax_tuning ? static_cast<float>(minmax_lr * left) : 0.0f});
      if (observer.on_iteration) observer.on_iteration(i, tuned.first_loss(), tuned.best_loss());
    }
  }
  for (std::size_t i = 0; i < tuned.weights.size(); ++i) {
    torch::Tensor& weight = block.linears()[i].weight;
    if (tuned.weights[i]) weight = dequantize(*tuned.weights[i], weight.scalar_type());
  }
  return tuned;
}

torch::Tensor run_block(const DecoderBlock& block, const torch::Tensor& hidden, const BlockContext& context,
                        std::int64_t micro_batch) {
  const torch::NoGradGuard no_gradients;
  const std::int64_t width = micro_batch > 0 ? micro_batch : 8;
  torch::Tensor out = torch::empty_like(hidden);
  for (std::int64_t first = 0; first < hidden.size(0); first += width) {
    const std::int64_t n = std::min(width, hidden.size(0) - first);
    out.narrow(0, first, n).copy_(block.forward(hidden.narrow(0, first, n), context));
  }
  return out;
}

}  // namespace roundtable
