// Sums of squares of what enters the layers.
#include "tune/losses/importance.h"

#include <torch/types.h>

#include <cstdint>
#include <numeric>

#include "base/error.h"
#include "model/load/tensor_span.h"

namespace roundtable {

Importance::Importance(Block& block, const std::vector<LinearSpec>& linears) : block_(block) {
  RT_CHECK(linears.size() == block.linears().size());
  for (const LinearSpec& linear : linears) widths_.push_back(linear.in);
  const std::int64_t total = std::accumulate(widths_.begin(), widths_.end(), std::int64_t{0});
  sums_ = torch::zeros({total}, torch::TensorOptions().dtype(torch::kFloat64).device(block.device()));
  layers_ = sums_.split_with_sizes(widths_);
  block.set_observer([this](const Linear& linear, const torch::Tensor& x, const torch::Tensor&) {
    const bool seen = only_.empty() || (linear.expert >= 0 && only_[static_cast<std::size_t>(linear.expert)]);
    if (seen) add(static_cast<std::size_t>(&linear - block_.linears().data()), x);
  });
}

void Importance::add(std::size_t layer, const torch::Tensor& x) {
  if (!last_input_.is_same(x)) {
    last_input_ = x;
    last_squares_ = x.flatten(0, -2).to(torch::kFloat32).square().sum(0);
  }
  layers_[layer].add_(last_squares_);
}

std::vector<torch::Tensor> Importance::sum(HostCommunicator& group) const {
  torch::Tensor whole = sums_.cpu();
  group.all_reduce_sum(host_span(whole));
  return whole.to(sums_.device(), torch::kFloat32).split_with_sizes(widths_);
}

}  // namespace roundtable
