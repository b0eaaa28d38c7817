// Gated activations: silu(gate) * up, and gelu(gate, "tanh") * up, of two tensors or of the halves of one.
#include "graph/fuse/pattern.h"

namespace roundtable {

namespace {

// x, where gate and up are x.chunk(2, -1).
std::optional<Argument> joined_of(const PatternGraph& graph, const GraphNode& user, const Argument& gate, const Argument& up) {
  const GraphNode* halves = graph.maker(user, gate, {"aten::chunk"});
  if (halves == nullptr || halves != graph.maker(user, up, {"aten::chunk"})) return std::nullopt;
  const bool in_two = is_number(*halves, 1, 2) && is_number(*halves, 2, -1) && halves->out.size() == 2;
  if (!in_two || halves->out[0] != gate.value() || halves->out[1] != up.value()) return std::nullopt;
  return halves->args[0];
}

Fused gate_node(const PatternGraph& graph, const GraphNode& user, const std::string& op, const Argument& gate, const Argument& up) {
  if (const auto joined = joined_of(graph, user, gate, up)) return {op + "_of_halves", {*joined}};
  return {op, {gate, up}};
}

}  // namespace

std::optional<Fused> fused_gate_of(const PatternGraph& graph, const GraphNode& node) {
  if (node.op != "aten::mul.Tensor") return std::nullopt;
  for (const std::size_t i : {0, 1}) {
    const Argument& up = node.args[1 - i];
    if (!up.value()) continue;
    const GraphNode* act = graph.maker(node, node.args[i], {"aten::silu", "aten::gelu"});
    if (act == nullptr) continue;
    if (act->op == "aten::silu") return gate_node(graph, node, "fused::swiglu", act->args[0], up);
    const auto* form = act->args.size() > 1 ? std::get_if<std::string>(&act->args[1].is) : nullptr;
    if (form != nullptr && *form == "tanh") return gate_node(graph, node, "fused::geglu", act->args[0], up);
  }
  return std::nullopt;
}

}  // namespace roundtable
