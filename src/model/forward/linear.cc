// The linear layer's autograd function.
#include "model/forward/linear.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <cstdint>

namespace roundtable {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// y = x W^T + b. dL/dW is handed on: autograd's own accumulation would keep a sum over micro-batches in W's dtype.
struct TakenLinear : public torch::autograd::Function<TakenLinear> {
  // The weight is an argument so that the graph has something that asks for a gradient; a bias may be undefined,
  // which autograd does not take as an input.
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& x, const torch::Tensor& weight,
                               const Linear* layer) {
    context->save_for_backward({x, weight});
    context->saved_data["layer"] = static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(layer));
    return torch::linear(x, weight, layer->bias);
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const auto saved = context->get_saved_variables();
    const torch::Tensor x = saved[0].flatten(0, -2);              // [tokens, in]
    const torch::Tensor dy = grad_outputs[0].flatten(0, -2);      // [tokens, out]
    const auto* layer = reinterpret_cast<const Linear*>(context->saved_data["layer"].toInt());
    layer->take_gradient(torch::mm(dy.t(), x));
    if (layer->gradient_taken) layer->gradient_taken();
    torch::Tensor dx;
    if (context->needs_input_grad(0)) dx = torch::mm(dy, saved[1]).view_as(saved[0]);
    return {dx, torch::Tensor(), torch::Tensor()};
  }
};

}  // namespace

torch::Tensor Linear::forward(const torch::Tensor& x) const {
  if (!take_gradient) return torch::linear(x, weight, bias);
  return TakenLinear::apply(x, weight, this);
}

}  // namespace roundtable
