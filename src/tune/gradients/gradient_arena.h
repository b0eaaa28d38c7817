// One buffer for all that a step sums over ranks: the gradients of all layers, the wish to leave and the loss.
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <vector>

namespace roundtable {

class GradientArena {
 public:
  static constexpr std::int64_t kTail = 2;  // numbers behind the gradients: ranks that want to leave, and the loss

  // Has a gradient of the shape of each of `weights`, on their device, in fp32: [n + kTail] in all.
  explicit GradientArena(const std::vector<torch::Tensor>& weights);

  // A sum begins: the tail becomes 0, and the next gradient of each layer replaces what is there.
  void clear();
  // Adds a layer's gradient, fp32 or bf16.
  void take(std::size_t layer, const torch::Tensor& gradient);
  // Call before reading the sum. Sets the gradient of every layer that received none to zero.
  void settle();

  torch::Tensor& whole() { return whole_; }
  torch::Tensor reduced() const { return whole_; }  // what ranks sum
  const torch::Tensor& gradient(std::size_t layer) const { return gradients_[layer]; }  // a view, of the weight's shape
  const std::vector<std::int64_t>& starts() const { return starts_; }                   // of the layers, in `whole`
  torch::Tensor tail() const { return whole_.narrow(0, whole_.numel() - kTail, kTail); }
  torch::Tensor loss() const { return whole_[-1]; }
  void add_loss(const torch::Tensor& loss) { whole_[-1].add_(loss); }
  void vote_to_leave() { whole_[-2].fill_(1.0); }

 private:
  torch::Tensor whole_;
  std::vector<std::int64_t> starts_;
  std::vector<torch::Tensor> gradients_;
  std::vector<bool> taken_;
};

}  // namespace roundtable
