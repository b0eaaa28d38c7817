// The head cut in two: first the gradients of what its product takes, piece by piece, then through the rest.
#include "phases/scheme/next_token_gradient.h"

#include <ATen/core/Reduction.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>

#include "base/activity.h"

namespace roundtable {

torch::Tensor next_token_gradient(const Head& head, const torch::Tensor& hidden, const torch::Tensor& ids,
                                  std::int64_t tokens, std::int64_t at_once, double& loss) {
  const torch::AutoGradMode gradients(true);
  const torch::Tensor in = hidden.detach().requires_grad_(true);
  const torch::Tensor features = head.features(in);
  torch::Tensor gradient = torch::zeros_like(features);
  const std::int64_t predicted = ids.size(0) - 1;  // the last position predicts nothing known
  for (std::int64_t first = 0; first < predicted; first += at_once) {
    note_progress();
    const std::int64_t n = std::min(at_once, predicted - first);
    const torch::Tensor piece = features.detach().narrow(0, first, n).requires_grad_(true);
    const torch::Tensor sum = at::cross_entropy_loss(head.logits(piece).to(torch::kFloat32),
                                                     ids.narrow(0, first + 1, n), {}, at::Reduction::Sum);
    const torch::Tensor mean = sum / static_cast<double>(tokens);
    mean.backward();
    loss += mean.item<double>();
    gradient.narrow(0, first, n).copy_(piece.grad());
  }
  features.backward(gradient);
  return in.grad();
}

}  // namespace roundtable
