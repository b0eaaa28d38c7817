// Tuning the rounding of a block's weights by signed gradient descent (SignRound, arXiv 2309.05516).
#pragma once

#include <torch/types.h>

#include <optional>

#include "data/sampler.h"
#include "model/group/tensor_group.h"
#include "tune/steps.h"
#include "tune/tuning_state.h"
#include "tune/tuning_unit.h"

namespace roundtable {

// Tunes one unit, once. Each iteration runs the blocks with fake-quantized weights on some samples, sums the gradients
// of the squared error over the group, and takes a step; the integers of the least loss are kept.
class BlockTuner {
 public:
  // `unit.blocks` and the communicators of `group` must outlive the tuner; everything else is copied. Tensors are
  // shared.
  BlockTuner(const TuningUnit& unit, const BlockSamples& samples, const Sampler& sampler, const TuneSettings& settings, const TensorGroup& group, const TuneObserver& observer = {});
  BlockTuner(const BlockTuner&) = delete;
  BlockTuner& operator=(const BlockTuner&) = delete;

  // Runs all iterations. At the end the blocks' weights are the dequantized result, ready to run the quantized chain.
  //
  // Collective over the group: loss and gradients are summed over its ranks before any decision, so that every rank
  // takes the same steps and returns the same integers. Throws on all ranks of the group: BrokenLoss when a loss is not
  // finite, AgreedError (kStartAgain) when the observer of any rank wants to leave.
  TunedBlock tune();

 private:
  void run_iterations();
  torch::Tensor sum_step(std::int64_t iteration);
  torch::Tensor run_rows(const torch::Tensor& rows);
  void run_no_rows();
  std::size_t most_rows(std::int64_t iteration) const;
  std::int64_t exchanged_bytes() const;
  void keep_integers(std::int64_t iteration);
  void learn(const std::optional<StepReport>& report);
  void note_loss(float loss);
  bool stalls() const;
  [[noreturn]] void throw_broken_loss(const StepReport& report) const;
  std::string first_broken_layer() const;
  void set_weights();

  BlockChain chain_;
  BlockSamples samples_;
  TuneSettings settings_;
  TensorGroup group_;
  TuneObserver observer_;
  StepRows rows_;
  std::vector<std::vector<std::int64_t>> rows_of_ranks_;  // [rank][step], where ranks divide experts
  std::optional<TuningState> state_;    // until the integers are final
  std::optional<StepReports> reports_;  // if there is anything to tune
  TunedBlock tuned_;
};

}  // namespace roundtable
