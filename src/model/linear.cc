// The linear layer's autograd function.
#include "model/linear.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <cstdint>

#include "model/accumulate.h"

namespace roundtable {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// y = x W^T + b. dL/dW goes straight into the fp32 buffer: autograd's own accumulation would keep it in W's dtype and
// allocate it anew in each micro-batch.
struct AccumulatingLinear : public torch::autograd::Function<AccumulatingLinear> {
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
    accumulate(layer->weight_gradient, torch::mm(dy.t(), x));
    if (layer->on_gradient) layer->on_gradient();
    torch::Tensor dx;
    if (context->needs_input_grad(0)) dx = torch::mm(dy, saved[1]).view_as(saved[0]);
    return {dx, torch::Tensor(), torch::Tensor()};
  }
};

}  // namespace

torch::Tensor Linear::forward(const torch::Tensor& x) const {
  if (!weight_gradient.defined()) return torch::linear(x, weight, bias);
  return AccumulatingLinear::apply(x, weight, this);
}

}  // namespace roundtable
