// The selective scan of Mamba 1 (arXiv 2312.00752, section 3.2 and algorithm 2), forward and backward.
#pragma once

#include <torch/types.h>

#include <vector>

namespace roundtable {

// For every sample b, channel d and token t, with states h of N numbers that start at 0:
//
//   h[t] = exp(delta[b, d, t] * a[d]) * h[t - 1] + delta[b, d, t] * u[b, d, t] * b[b, :, t]
//   y[b, d, t] = sum over n of h[t, n] * c[b, n, t]
//
// u and delta are [B, D, S], a is [D, N], b and c are [B, N, S]; y is [B, D, S] in the dtype of u. Sums and states are
// fp32, or fp64 if any argument is. Differentiable in all five. Shapes and dtypes must fit; the caller checks them.
//
// States are never kept: the backward pass computes them again. On a CPU it does so channel by channel, in 2 N (S + 1)
// numbers per thread; elsewhere in chunks of about sqrt(S) tokens, from the states at their starts.
torch::Tensor selective_scan(const torch::Tensor& u, const torch::Tensor& delta, const torch::Tensor& a,
                             const torch::Tensor& b, const torch::Tensor& c);

// The ways by device. The first one takes tensors on a CPU only.
torch::Tensor scan_by_channel(const torch::Tensor& u, const torch::Tensor& delta, const torch::Tensor& a,
                              const torch::Tensor& b, const torch::Tensor& c);
torch::Tensor scan_in_chunks(const torch::Tensor& u, const torch::Tensor& delta, const torch::Tensor& a,
                             const torch::Tensor& b, const torch::Tensor& c);

// For both: the five arguments, contiguous, in the dtype of the states; b and c as [B, S, N].
struct ScanArguments {
  torch::Tensor u, delta, a, b, c;

  explicit ScanArguments(const std::vector<torch::Tensor>& given);
  std::int64_t samples() const { return u.size(0); }
  std::int64_t channels() const { return u.size(1); }
  std::int64_t seqlen() const { return u.size(2); }
  std::int64_t states() const { return a.size(1); }
};

// The gradients of u, delta, a, b and c as they were given: shapes ([B, S, N] becomes [B, N, S]) and dtypes.
std::vector<torch::Tensor> scan_gradients(const ScanArguments& gradients, const std::vector<torch::Tensor>& given);

}  // namespace roundtable
