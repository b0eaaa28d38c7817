// The tuning loop of a unit.
#include "tune/block_tuner.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/activity.h"
#include "base/error.h"
#include "tune/gradients/gradient_sum.h"
#include "tune/losses/mse.h"

namespace roundtable {

BlockTuner::BlockTuner(const TuningUnit& unit, const BlockSamples& samples, const Sampler& sampler,
                       const TuneSettings& settings, const TensorGroup& group,
                       const TuneObserver& observer)
    : chain_(unit.blocks),
      samples_(samples),
      settings_(settings),
      group_(group),
      observer_(observer),
      rows_(sampler, settings.iters, samples.range, samples.input.hidden.device()) {
  state_.emplace(chain_, unit, settings_, group_, samples_.importance);
  if (chain_.exchange() == nullptr) return;
  std::vector<std::int64_t> own;
  for (std::int64_t i = 0; i < settings.iters; ++i) own.push_back(static_cast<std::int64_t>(rows_.count(i)));
  rows_of_ranks_ = chain_.exchange()->group.all_gather(own);
}

// Of the rank that has the most samples in a step, where that matters.
std::size_t BlockTuner::most_rows(std::int64_t iteration) const {
  std::size_t most = rows_.count(iteration);
  for (const std::vector<std::int64_t>& rank : rows_of_ranks_) {
    most = std::max(most, static_cast<std::size_t>(rank[static_cast<std::size_t>(iteration)]));
  }
  return most;
}

TunedBlock BlockTuner::tune() {
  const std::int64_t before = exchanged_bytes();
  if (state_->empty() || settings_.iters == 0) {
    state_->keep();
  } else {
    run_iterations();
  }
  tuned_.exchanged_bytes = exchanged_bytes() - before;
  tuned_.weights = state_->take_best();
  for (std::optional<QuantizedWeight>& weight : tuned_.weights) {
    if (weight) replace_zero_scales(*weight);
  }
  tuned_.reduction = state_->figures();
  state_.reset();  // gradients are of no use any more, and take memory
  set_weights();
  return std::move(tuned_);
}

std::int64_t BlockTuner::exchanged_bytes() const {
  return chain_.exchange() == nullptr ? 0 : chain_.exchange()->figures.bytes;
}

// On a device the iterations are enqueued without waiting for their losses, except if an early stop depends on them.
void BlockTuner::run_iterations() {
  const torch::Device device = state_->arena().whole().device();
  reports_.emplace(device, settings_.late_reports.value_or(device.is_cuda()) && settings_.dynamic_max_gap < 1);
  for (std::int64_t i = 0; i < settings_.iters; ++i) {
    state_->fake_quantize_weights();
    torch::Tensor own_part = sum_step(i);
    learn(reports_->put(i, state_->arena().tail(), std::move(own_part)));
    if (observer_.on_gradients) observer_.on_gradients(state_->gradients(i));
    keep_integers(i);  // before the step: the loss belongs to these parameters
    if (stalls()) break;
    state_->step(i);
  }
  learn(reports_->last());
}

// Leaves the gradients and the loss of a step, summed over the group, in the arena. Returns this rank's part of the
// loss; undefined if it has no sample in this step. Collective.
torch::Tensor BlockTuner::sum_step(std::int64_t iteration) {
  torch::Tensor part;
  const auto add = [&](std::size_t first, std::size_t last) {
    // Once per step, in the one reduction that there is: if any rank wants to leave, all leave.
    if (first == 0 && observer_.wants_to_leave && observer_.wants_to_leave()) state_->arena().vote_to_leave();
    note_progress();
    if (first == last) return run_no_rows();
    const torch::Tensor loss = run_rows(rows_.some(iteration, first, last));
    part = part.defined() ? part + loss : loss;
  };
  const std::size_t mine = rows_.count(iteration);
  if (settings_.reproducible) {
    sum_gradients_by_tree(state_->arena(), mine, chain_.exchange() != nullptr, add, group_);
  } else {
    const std::size_t most = most_rows(iteration);
    const auto width = static_cast<std::size_t>(settings_.micro_batch);
    sum_gradients(state_->arena(), mine, most, width > 0 ? width : std::max<std::size_t>(1, most), add, state_->sum());
  }
  return part;
}

// Forward and backward over some rows of the samples; loss and gradients are added to the arena. Returns the loss: the
// sum of squared errors over the number of output elements of the whole batch of all ranks (SignRound, equation 5), in
// fp32.
torch::Tensor BlockTuner::run_rows(const torch::Tensor& rows) {
  const auto elements = static_cast<double>(rows_.batch()) * static_cast<double>(samples_.target[0].numel());
  const torch::Tensor output = chain_.forward(samples_.input.rows(rows).to(chain_.blocks().front()->device()));
  // The gradient by hand: autograd would keep fp32 copies of the activations for it.
  const SquaredError error = squared_error(output, samples_.target, rows, 1.0 / elements, settings_.outliers);
  state_->arena().add_loss(error.loss);  // before the backward pass, in which the first bucket leaves
  output.backward(error.gradient);
  return error.loss;
}

// A pass for the samples of other ranks.
void BlockTuner::run_no_rows() {
  const torch::Tensor output = chain_.forward_idle(samples_.input.narrow(0, 1).to(chain_.blocks().front()->device()));
  output.backward(torch::zeros_like(output));
}

void BlockTuner::keep_integers(std::int64_t iteration) {
  if (!settings_.not_use_mse) {
    state_->keep_if_best();
  } else if (iteration + 1 == settings_.iters) {
    state_->keep();
  }
}

// What the host learns of a step, on all ranks the same.
void BlockTuner::learn(const std::optional<StepReport>& report) {
  if (!report) return;
  if (report->leave) throw AgreedError(ExitCode::kStartAgain, "asked to leave");
  if (!std::isfinite(report->loss)) throw_broken_loss(*report);
  note_loss(report->loss);
  if (observer_.on_iteration) observer_.on_iteration(report->iteration, tuned_.first_loss(), tuned_.best_loss());
}

// The host's own account of the best iteration, by the same comparisons as TuningState::keep_if_best().
void BlockTuner::note_loss(float loss) {
  const auto i = static_cast<std::int64_t>(tuned_.losses.size());
  tuned_.losses.push_back(loss);
  if (i == 0 || loss < tuned_.best_loss() || settings_.not_use_mse) tuned_.best_iteration = i;
}

// The early stop of the reference, which does not stop if the last parameters are wanted.
bool BlockTuner::stalls() const {
  const auto last = static_cast<std::int64_t>(tuned_.losses.size()) - 1;
  return !settings_.not_use_mse && settings_.dynamic_max_gap > 0 &&
         last - tuned_.best_iteration >= settings_.dynamic_max_gap;
}

// All ranks of the group see the same loss and throw together, each with what it finds on its own samples.
void BlockTuner::throw_broken_loss(const StepReport& report) const {
  const std::string layer = first_broken_layer();
  const bool own = report.own_part.defined() && !report.own_part.isfinite().item<bool>();
  throw BrokenLoss(
      fmt::format("the loss is {} at iteration {}, beginning with {}; check the calibration tokens, or lower tuning.lr",
                  report.loss, report.iteration,
                  layer.empty() ? "the loss itself (the layers' outputs are finite)" : "layer " + layer),
      !layer.empty() || own);
}

// The first linear layer, in the order of the data, whose output on this rank's samples is not finite; or empty.
std::string BlockTuner::first_broken_layer() const {
  std::string broken;
  States states = samples_.input;
  for (Block* block : chain_.blocks()) {
    block->set_observer([&](const Linear& linear, const torch::Tensor&, const torch::Tensor& y) {
      if (broken.empty() && !y.isfinite().all().item<bool>()) broken = chain_.name(linear);
    });
    states = run_block(*block, states, 1);
    block->set_observer({});
  }
  return broken;
}

void BlockTuner::set_weights() {
  for (std::size_t i = 0; i < tuned_.weights.size(); ++i) {
    torch::Tensor& weight = chain_.linear(i).weight;
    if (tuned_.weights[i]) weight = dequantize(*tuned_.weights[i], weight.scalar_type());
  }
}

}  // namespace roundtable
