// What changes while a unit is tuned: the rounding parameters of its quantized linear layers, their gradients, and the
// best integers so far.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tune/gradients/bucketed_sum.h"
#include "tune/gradients/gradient_arena.h"
#include "model/group/tensor_group.h"
#include "tune/tuning_unit.h"

namespace roundtable {

// Consecutive blocks as one: x -> block -> block -> ... The blocks must outlive it.
class BlockChain {
 public:
  explicit BlockChain(const std::vector<Block*>& blocks);

  // The hidden states behind the last block. Differentiable. `states` is on the blocks' device.
  torch::Tensor forward(States states) const;
  // The same with Block::forward_idle().
  torch::Tensor forward_idle(States states) const;
  // Of the first block whose experts ranks divide; null: there is none.
  const ExpertExchange* exchange() const;

  const std::vector<Block*>& blocks() const { return blocks_; }

  // The linear layers of all blocks, one block after the other.
  Linear& linear(std::size_t i) const { return *linears_[i]; }
  std::size_t size() const { return linears_.size(); }

  // "mlp.up_proj"; with the block's place in front if there are several: "1.mlp.up_proj".
  std::string name(const Linear& linear) const;

 private:
  std::vector<Block*> blocks_;
  std::vector<Linear*> linears_;
};

// While it lives, the backward pass of a quantized layer puts its gradient into the arena and starts the sum over the
// group.
class TuningState {
 public:
  // `chain` is of `unit.blocks`; it and `settings` must outlive this. `importance` as in BlockSamples.
  TuningState(const BlockChain& chain, const TuningUnit& unit, const TuneSettings& settings, const TensorGroup& group,
              const std::vector<torch::Tensor>& importance);
  // The blocks' weights and layers know nothing of gradients any more.
  ~TuningState();
  TuningState(const TuningState&) = delete;
  TuningState& operator=(const TuningState&) = delete;

  // No layer is quantized: nothing to tune. arena(), sum(), step() and gradients() are for a state that is not empty.
  bool empty() const { return !arena_; }
  GradientArena& arena() { return *arena_; }
  BucketedSum& sum() { return *sum_; }
  ReductionFigures figures() const { return sum_ ? sum_->figures() : ReductionFigures{}; }

  // Sets the blocks' weights to what the present parameters make of the original ones.
  void fake_quantize_weights();

  // Moves the parameters by the gradients in the arena.
  void step(std::int64_t iteration);

  // Keeps the integers of the present parameters if their loss, in the arena, is the least so far. Where the weights
  // are on a device, the device decides and the host does not wait.
  void keep_if_best();
  // Keeps them in any case.
  void keep();
  std::vector<std::optional<QuantizedWeight>> take_best() { return std::move(best_); }

  // What is in the arena, for an observer. Waits for a device.
  StepGradients gradients(std::int64_t iteration) const;

 private:
  void share_global_scale(const std::vector<torch::Tensor>& quantized);
  void take_gradients_of(std::size_t layer);

  // Calls body(i) for each layer that is quantized.
  template <class Body>
  void for_each(const Body& body) const {
    for (std::size_t i = 0; i < schemes_.size(); ++i) {
      if (schemes_[i]) body(i);
    }
  }

  const BlockChain& chain_;
  std::vector<torch::Tensor> original_;
  BlockSchemes schemes_;
  const TuneSettings& settings_;
  std::vector<RoundingParameters> parameters_;
  std::vector<std::unique_ptr<RoundingOptimizer>> optimizers_;
  std::vector<std::size_t> place_;  // of a layer among those that are quantized: its place in the arena
  std::optional<GradientArena> arena_;
  std::optional<BucketedSum> sum_;
  torch::Tensor least_loss_;  // one number, where the weights are
  std::vector<std::optional<QuantizedWeight>> best_;
};

}  // namespace roundtable
