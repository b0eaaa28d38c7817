// What attention keeps between its forward and its backward pass.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include "model/attention/heads.h"

namespace roundtable {

struct KeptAttention {
  torch::Tensor q;     // [batch, heads, seqlen, head_dim]
  torch::Tensor k, v;  // [n, seqlen, head_dim], n = batch * kv_heads
  double scale;
  std::int64_t window;
  torch::autograd::variable_list tiles{};  // the probabilities of each tile, in order

  AttentionHeads heads() const { return AttentionHeads::of(q, k.unflatten(0, {q.size(0), -1})); }

  void save(torch::autograd::AutogradContext* context) const {
    torch::autograd::variable_list all{q, k, v};
    all.insert(all.end(), tiles.begin(), tiles.end());
    context->save_for_backward(all);
    context->saved_data["scale"] = scale;
    context->saved_data["window"] = window;
  }
  static KeptAttention saved_in(torch::autograd::AutogradContext* context) {
    const torch::autograd::variable_list all = context->get_saved_variables();
    return {all[0], all[1], all[2], context->saved_data["scale"].toDouble(), context->saved_data["window"].toInt(),
            {all.begin() + 3, all.end()}};
  }
};

}  // namespace roundtable
