// rt::selective_scan: checks its arguments, which may come from a graph that anyone wrote.
#include "model/scan/selective_scan.h"

#include <torch/types.h>

#include "graph/operators/library.h"

namespace roundtable {

using torch::Tensor;

Tensor graph_selective_scan(const Tensor& u, const Tensor& delta, const Tensor& a, const Tensor& b, const Tensor& c) {
  TORCH_CHECK(u.dim() == 3 && u.sizes() == delta.sizes(), "u and delta must both be [batch, channels, seqlen]");
  TORCH_CHECK(a.dim() == 2 && a.size(0) == u.size(1) && a.size(1) > 0, "A must be [channels, states]");
  TORCH_CHECK(b.dim() == 3 && b.sizes() == c.sizes() && b.size(0) == u.size(0) && b.size(1) == a.size(1) &&
                  b.size(2) == u.size(2),
              "B and C must both be [batch, states, seqlen]");
  for (const Tensor& tensor : {u, delta, a, b, c}) {
    TORCH_CHECK(torch::isFloatingType(tensor.scalar_type()), "u, delta, A, B and C must be real numbers");
  }
  if (u.numel() == 0) return torch::zeros_like(u);
  return selective_scan(u, delta, a, b, c);
}

}  // namespace roundtable
