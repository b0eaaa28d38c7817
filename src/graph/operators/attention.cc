// rt::attention: packed attention of model/attention where it serves, LibTorch's otherwise.
#include "model/attention/attention.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <limits>

#include "graph/operators/library.h"

namespace roundtable {
namespace {

using torch::Tensor;

constexpr float kUnseen = -std::numeric_limits<float>::infinity();

// Whether causal_attention() computes this. Values that are narrower than queries and keys (DeepSeek's MLA) are filled
// up with zeros: that costs a part of one product, where LibTorch's way on a CPU would keep all scores.
bool is_packed(const Tensor& q, const Tensor& v, bool plain) {
  const bool kernel = !q.is_cpu() || q.scalar_type() == torch::kFloat32 || q.scalar_type() == torch::kBFloat16;
  return plain && kernel && v.size(3) <= q.size(3);
}

Tensor packed(const Tensor& q, const Tensor& k, const Tensor& v, double scale, std::int64_t window, double softcap) {
  const std::int64_t missing = q.size(3) - v.size(3);
  if (missing == 0) return causal_attention(q, k, v, scale, window, softcap).transpose(1, 2);
  const Tensor wide = torch::constant_pad_nd(v, {0, missing});
  return causal_attention(q, k, wide, scale, window, softcap).narrow(3, 0, v.size(3)).transpose(1, 2);
}

// [S, T] bool: position i sees i - window < j <= i, with window 0 all j <= i.
Tensor causal_mask(const Tensor& q, std::int64_t window) {
  const Tensor seen = torch::ones({q.size(2), q.size(2)}, q.options().dtype(torch::kBool)).tril();
  return window > 0 ? seen.logical_and(seen.tril(-window).logical_not()) : seen;
}

// Scores and probabilities written out, for caps and sinks.
Tensor plain_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& seen,
                       const std::optional<Tensor>& sinks, double scale, double softcap) {
  Tensor scores = torch::matmul(q, k.transpose(2, 3)) * scale;
  if (softcap > 0) scores = torch::tanh(scores / softcap) * softcap;
  if (seen) {
    scores = seen->scalar_type() == torch::kBool ? scores.masked_fill(seen->logical_not(), kUnseen) : scores + *seen;
  }
  if (sinks) {
    const Tensor column = sinks->reshape({1, -1, 1, 1}).expand({q.size(0), q.size(1), q.size(2), 1});
    scores = torch::cat({scores, column.to(scores.scalar_type())}, -1);
  }
  const Tensor unseen = scores.amax(-1, /*keepdim=*/true) == kUnseen;  // rows that see nothing
  Tensor p =
      torch::softmax(scores.masked_fill(unseen, 0), -1, torch::kFloat32).to(v.scalar_type()).masked_fill(unseen, 0);
  if (sinks) p = p.narrow(-1, 0, k.size(2));
  return torch::matmul(p, v);
}

}  // namespace

Tensor graph_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask,
                       const std::optional<Tensor>& sinks, double scale, bool causal, std::int64_t window,
                       double softcap) {
  TORCH_CHECK(q.dim() == 4 && k.dim() == 4 && v.dim() == 4, "q, k and v must have four dimensions");
  TORCH_CHECK(k.size(1) > 0 && q.size(1) % k.size(1) == 0 && k.size(1) == v.size(1) && k.size(2) == v.size(2) &&
                  q.size(3) == k.size(3) && q.size(0) == k.size(0) && q.size(0) == v.size(0),
              "q, k and v do not fit each other");
  TORCH_CHECK(scale > 0 && window >= 0 && softcap >= 0, "scale, window or softcap is out of range");
  TORCH_CHECK(!causal || (!mask && q.size(2) == k.size(2)),
              "causal attention takes no mask and as many keys as queries");
  TORCH_CHECK(!sinks || sinks->numel() == q.size(1), "there must be one sink per head");
  if (is_packed(q, v, causal && !sinks)) return packed(q, k, v, scale, window, softcap);
  const std::int64_t shared = q.size(1) / k.size(1);
  const Tensor keys = shared > 1 ? k.repeat_interleave(shared, 1) : k;
  const Tensor values = shared > 1 ? v.repeat_interleave(shared, 1) : v;
  std::optional<Tensor> seen = causal ? std::optional(causal_mask(q, window)) : mask;
  if (softcap > 0 || sinks) {
    return plain_attention(q, keys, values, seen, sinks, scale, softcap).transpose(1, 2).contiguous();
  }
  if (seen && seen->scalar_type() != torch::kBool) seen = seen->to(q.scalar_type());
  return at::scaled_dot_product_attention(q, keys, values, seen, /*dropout_p=*/0.0, /*is_causal=*/false, scale)
      .transpose(1, 2)
      .contiguous();
}

}  // namespace roundtable
