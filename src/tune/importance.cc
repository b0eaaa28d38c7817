// Sums of squares of what enters the layers.
#include "tune/importance.h"

#include <torch/types.h>

namespace roundtable {

Importance::Importance(DecoderBlock& block) : block_(block) {
  std::int64_t total = 0;
  for (const Linear& linear : block.linears()) total += linear.weight.size(1);
  sums_ = torch::zeros({total}, block.linears().front().weight.options().dtype(torch::kFloat64));
  std::int64_t offset = 0;
  for (const Linear& linear : block.linears()) {
    layers_.push_back(sums_.narrow(0, offset, linear.weight.size(1)));
    offset += linear.weight.size(1);
  }
  block.set_observer([this](const Linear& linear, const torch::Tensor& x, const torch::Tensor&) {
    add(static_cast<std::size_t>(&linear - block_.linears().data()), x);
  });
}

void Importance::add(std::size_t layer, const torch::Tensor& x) {
  if (!last_input_.is_same(x)) {
    last_input_ = x;
    last_squares_ = x.flatten(0, -2).to(torch::kFloat32).square().sum(0);
  }
  layers_[layer].add_(last_squares_);
}

std::vector<torch::Tensor> Importance::sum(Communicator& group) const {
  torch::Tensor whole = sums_.cpu();
  group.all_reduce_sum(whole.data_ptr(), whole.numel(), ElementType::kF64);
  whole = whole.to(sums_.device(), torch::kFloat32);
  std::vector<torch::Tensor> out;
  std::int64_t offset = 0;
  for (const torch::Tensor& layer : layers_) {
    out.push_back(whole.narrow(0, offset, layer.size(0)));
    offset += layer.size(0);
  }
  return out;
}

}  // namespace roundtable
