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
  // Of each layer; nothing for those that stay as they are. Layers of one matrix share memory.
  std::vector<std::optional<QuantizedWeight>> take_best();

  // What is in the arena, for an observer. Waits for a device.
  StepGradients gradients(std::int64_t iteration) const;

 private:
  // Layers that are tuned alike and lie one behind the other in the arena, as one matrix with the rows of all: each
  // kernel is called once for them, and not once for each of hundreds of experts.
  struct Matrix {
    std::size_t first = 0, last = 0;  // of the layers, by their places in the arena
    QuantScheme scheme;
    torch::ScalarType dtype = torch::kFloat32;  // of the blocks' weights
    torch::Tensor original;                     // [rows, in]
    torch::Tensor weight;    // the same, fake-quantized: the layers' weights are its rows
    torch::Tensor gradient;  // in the arena
    RoundingParameters parameters;
    std::unique_ptr<RoundingOptimizer> optimizer;
    std::optional<QuantizedWeight> best;
  };

  void order_layers();
  bool is_summed(std::size_t layer) const;
  bool share_global_scale(const std::vector<torch::Tensor>& original);
  void make_matrices(const std::vector<torch::Tensor>& original);
  bool are_alike(std::size_t a, std::size_t b, const std::vector<torch::Tensor>& original) const;
  Matrix make_matrix(std::size_t first, std::size_t last, const std::vector<torch::Tensor>& original) const;
  void give_up_weights();
  void search_scales_of(Matrix& matrix, const std::vector<torch::Tensor>& importance) const;
  void give_weights(const Matrix& matrix);
  std::vector<ArenaPart> parts_in_forward_order() const;

  // Calls body(layer, first row, rows) for each layer of a matrix.
  template <class Body>
  void for_each_layer(const Matrix& matrix, const Body& body) const {
    std::int64_t row = 0;
    for (std::size_t place = matrix.first; place < matrix.last; ++place) {
      const std::int64_t rows = arena_->gradient(place).size(0);
      body(order_[place], row, rows);
      row += rows;
    }
  }

  const BlockChain& chain_;
  BlockSchemes schemes_;
  const TuneSettings& settings_;
  std::vector<std::size_t> order_;  // the quantized layers as they lie in the arena: those of experts, then the others
  std::vector<std::size_t> place_;  // of a layer in order_
  std::vector<std::size_t> turn_;   // of a layer that the group sums among these in the forward pass
  std::optional<GradientArena> arena_;
  std::optional<BucketedSum> sum_;
  torch::Tensor least_loss_;  // one number, where the weights are
  std::vector<Matrix> matrices_;
};

}  // namespace roundtable
