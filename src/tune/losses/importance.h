// How much each input of a linear layer weighs in the error of its output.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "graph/block.h"
#include "model/load/parameter.h"

namespace roundtable {

// Watches the forward passes of a block for as long as it lives and adds up, for each of its linear layers and each
// input channel j, the squares x_j^2 over all tokens: the importance matrix of llama.cpp and auto-round (imatrix), the
// diagonal of the layer's Hessian in GPTQ (arXiv 2210.17323). The block must outlive it, and stay where it is.
class Importance {
 public:
  // `linears` are those of the block's table: layers that another rank holds have a width, too.
  Importance(Block& block, const std::vector<LinearSpec>& linears);
  ~Importance() { block_.set_observer({}); }
  Importance(const Importance&) = delete;
  Importance& operator=(const Importance&) = delete;

  // From now on only the layers of these experts are added to.
  void watch_only(std::vector<bool> experts) { only_ = std::move(experts); }

  // The sums over the ranks of the group, one [in] fp32 per layer, on the block's device, in the order of linears(); 0
  // for an expert that no token reached. A layer that one rank alone holds has that rank's sums. Call once, after the
  // last pass. Collective over `group`; blocks: the sums travel in host memory, wherever the block is.
  std::vector<torch::Tensor> sum(HostCommunicator& group) const;

 private:
  void add(std::size_t layer, const torch::Tensor& x);

  Block& block_;
  std::vector<std::int64_t> widths_;  // inputs of each layer
  // The sums of all layers, one after the other, in fp64: 2^29 times finer than the fp32 that they are rounded to, so
  // that the order in which ranks are summed does not show.
  torch::Tensor sums_;
  std::vector<torch::Tensor> layers_;  // views of it
  torch::Tensor last_input_;           // q, k and v have one input, and so have gate and up
  torch::Tensor last_squares_;
  std::vector<bool> only_;  // empty: all layers
};

}  // namespace roundtable
