// What flows from block to block: hidden states and what goes along with them, of some samples. Dimension 0 of every
// tensor is the sample.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "graph/block.h"

namespace roundtable {

struct States {
  torch::Tensor hidden;  // [n, ...boundary.hidden]
  SideTensors side;

  std::int64_t size() const { return hidden.size(0); }
  States narrow(std::int64_t first, std::int64_t count) const;
  States rows(const torch::Tensor& index) const;  // copies; `index` is where the tensors are
  States to(torch::Device device) const;
  // Calls body(tensor) for each tensor that is there.
  template <class Body>
  void for_each(const Body& body) {
    body(hidden);
    if (side.tokens.defined()) body(side.tokens);
    for (auto& [name, tensor] : side.carried) body(tensor);
  }
};

// Runs `block` over all samples, `micro_batch` at a time (0: 8), without gradients. The result is where `states` is, on
// the block's device or on the host. What the block gives is in it, and everything that was carried before. Where ranks
// divide its experts, this is collective over them; each may have another number of samples, or none.
States run_block(const Block& block, const States& states, std::int64_t micro_batch);

// Runs `block` over some samples of `states`, one per pass, for what the block's observer sees: the results are lost.
// before(place) is called ahead of each of `places`. Collective as run_block() is.
void pass_samples(const Block& block, const States& states, const std::vector<std::int64_t>& places,
                  const std::function<void(std::int64_t place)>& before);

}  // namespace roundtable
