// Activations by name; transformers' activations.py.
#include "model/forward/activation.h"

#include <torch/types.h>

#include "base/error.h"
#include "model/forward/swiglu.h"

namespace roundtable {

torch::Tensor activate(Activation activation, const torch::Tensor& x) {
  switch (activation) {
    case Activation::kSilu:
      return torch::silu(x);
    case Activation::kGelu:
      return torch::gelu(x);
    case Activation::kGeluTanh:
      return torch::gelu(x, "tanh");
    case Activation::kRelu:
      return torch::relu(x);
  }
  RT_UNREACHABLE("an activation without a formula");
}

torch::Tensor activate_gated(Activation activation, const torch::Tensor& gate, const torch::Tensor& up) {
  if (activation == Activation::kSilu) return swiglu(gate, up);
  return activate(activation, gate) * up;
}

}  // namespace roundtable
