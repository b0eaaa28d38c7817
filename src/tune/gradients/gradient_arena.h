// One buffer for all that a step sums over ranks: the gradients of all layers, the wish to leave and the loss.
#pragma once

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace roundtable {

// Where a layer's gradient lies.
struct ArenaPart {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

class GradientArena {
 public:
  static constexpr std::int64_t kTail = 2;  // numbers behind the gradients: ranks that want to leave, and the loss

  // Has a gradient of the shape of each of `weights`, on `device`, in fp32: [n + kTail] in all. The first `alone` of them
  // are this rank's alone.
  GradientArena(const std::vector<torch::Tensor>& weights, torch::Device device, std::size_t alone = 0);

  // A sum begins: the tail becomes 0, and the next gradient of each layer replaces what is there.
  void clear();
  // Adds a layer's gradient, fp32 or bf16. Several threads may do so at once, each for another layer.
  void take(std::size_t layer, const torch::Tensor& gradient);
  // Call before reading the sum. Sets the gradient of every layer that received none to zero.
  void settle();

  torch::Tensor& whole() { return whole_; }
  // What ranks sum: all but the layers that this rank alone has, which are the first.
  torch::Tensor reduced() const { return whole_.narrow(0, reduced_from_, whole_.numel() - reduced_from_); }
  const torch::Tensor& gradient(std::size_t layer) const { return gradients_[layer]; }  // a view, of the weight's shape
  // Of the layers [first, last), whose weights have one width, as one matrix; a view.
  torch::Tensor stacked_gradients(std::size_t first, std::size_t last) const;
  const std::vector<ArenaPart>& parts() const { return parts_; }  // of the layers, in `whole`, one behind the other
  torch::Tensor tail() const { return whole_.narrow(0, whole_.numel() - kTail, kTail); }
  torch::Tensor loss() const { return whole_[-1]; }
  void add_loss(const torch::Tensor& loss) { whole_[-1].add_(loss); }
  void vote_to_leave() { whole_[-2].fill_(1.0); }

 private:
  torch::Tensor whole_;
  std::vector<ArenaPart> parts_;
  std::vector<torch::Tensor> gradients_;
  std::int64_t reduced_from_ = 0;
  std::vector<char> taken_;  // not bits, which threads would share
};

}  // namespace roundtable
