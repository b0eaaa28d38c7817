// GELU in its "tanh" form, as LibTorch's operator or written out (GPT-2's; transformers 5.23, activations.py,
// NewGELUActivation):
//
//   0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))
//
// Written out it makes eight tensors; LibTorch's operator calls a slow tanh (6 ms for 3 million
// bf16 elements each way).
#include <cmath>
#include <numbers>

#include "graph/fuse/pattern.h"

namespace roundtable {
namespace {

// The tensor of tensor * factor or tensor + summand.
std::optional<Argument> other_of(const PatternGraph& graph, const GraphNode& user, const Argument& argument,
                                 std::string_view op, double wanted) {
  const GraphNode* node = graph.maker(user, argument, {op});
  const auto found = node != nullptr && node->args.size() == 2 ? number(node->args[1]) : std::nullopt;
  if (!found || std::abs(*found - wanted) > 1e-9) return std::nullopt;
  return node->args[0];
}

}  // namespace

std::optional<Fused> fused_gelu_of(const PatternGraph& graph, const GraphNode& node) {
  if (node.op == "aten::gelu" && node.args.size() > 1) {
    const auto* form = std::get_if<std::string>(&node.args[1].is);
    if (form == nullptr || *form != "tanh") return std::nullopt;
    return Fused{"fused::gelu", {node.args[0]}};
  }
  constexpr std::string_view kMultiply = "aten::mul.Tensor", kAdd = "aten::add.Tensor";
  if (node.op != kMultiply) return std::nullopt;
  const auto x = other_of(graph, node, node.args[0], kMultiply, 0.5);
  const auto bend = other_of(graph, node, node.args[1], kAdd, 1);
  if (!x || !bend) return std::nullopt;
  const GraphNode* tanh = graph.maker(node, *bend, {"aten::tanh"});
  if (tanh == nullptr) return std::nullopt;
  const auto inner = other_of(graph, node, tanh->args[0], kMultiply, std::sqrt(2 / std::numbers::pi));
  const GraphNode* sum = inner ? graph.maker(node, *inner, {kAdd}) : nullptr;
  if (sum == nullptr || sum->args.size() != 2 || !same_value(sum->args[0], *x)) return std::nullopt;
  const auto third = other_of(graph, node, sum->args[1], kMultiply, 0.044715);
  const auto base = third ? other_of(graph, node, *third, "aten::pow.Tensor_Scalar", 3) : std::nullopt;
  if (!base || !same_value(*base, *x)) return std::nullopt;
  return Fused{"fused::gelu", {*x}};
}

}  // namespace roundtable
