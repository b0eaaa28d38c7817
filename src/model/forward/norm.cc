// Norms by kind.
#include "model/forward/norm.h"

#include <torch/types.h>

#include "model/forward/rms_norm.h"

namespace roundtable {

torch::Tensor Norm::forward(const torch::Tensor& x) const {
  if (!weight.defined()) return x;
  if (kind == NormKind::kLayer) return torch::layer_norm(x, {weight.size(0)}, weight, bias, eps);
  return rms_norm(x, weight, eps, kind == NormKind::kRmsPlusOne ? RmsWeight::kPlusOne : RmsWeight::kPlain);
}

}  // namespace roundtable
