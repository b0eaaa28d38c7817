// The first gradient of a sum is copied, not added to zeros: that saves two passes over memory per step.
#include "tune/gradients/gradient_arena.h"

#include "tune/gradients/accumulate.h"

namespace roundtable {

GradientArena::GradientArena(const std::vector<torch::Tensor>& weights, torch::Device device, std::size_t alone)
    : taken_(weights.size()) {
  std::int64_t end = 0;
  for (const torch::Tensor& weight : weights) {
    parts_.push_back({end, end + weight.numel()});
    end += weight.numel();
  }
  whole_ = torch::zeros({end + kTail}, torch::dtype(torch::kFloat32).device(device));
  if (alone > 0) reduced_from_ = parts_[alone - 1].end;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    gradients_.push_back(whole_.narrow(0, parts_[i].begin, weights[i].numel()).view_as(weights[i]));
  }
}

torch::Tensor GradientArena::stacked_gradients(std::size_t first, std::size_t last) const {
  const std::int64_t begin = parts_[first].begin;
  return whole_.narrow(0, begin, parts_[last - 1].end - begin).view({-1, gradients_[first].size(1)});
}

void GradientArena::clear() {
  tail().zero_();
  taken_.assign(taken_.size(), false);
}

void GradientArena::take(std::size_t layer, const torch::Tensor& gradient) {
  if (taken_[layer]) {
    accumulate(gradients_[layer], gradient);
  } else {
    gradients_[layer].copy_(gradient);
  }
  taken_[layer] = true;
}

void GradientArena::settle() {
  for (std::size_t i = 0; i < taken_.size(); ++i) {
    if (!taken_[i]) gradients_[i].zero_();
  }
}

}  // namespace roundtable
