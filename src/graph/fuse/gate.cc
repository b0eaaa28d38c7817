// Gated activations: silu(gate) * up, and gelu(gate, "tanh") * up.
#include "graph/fuse/pattern.h"

namespace roundtable {

std::optional<Fused> fused_gate_of(const PatternGraph& graph, const GraphNode& node) {
  if (node.op != "aten::mul.Tensor") return std::nullopt;
  for (const std::size_t i : {0, 1}) {
    const Argument& up = node.args[1 - i];
    if (!up.value()) continue;
    const GraphNode* act = graph.maker(node, node.args[i], {"aten::silu", "aten::gelu"});
    if (act == nullptr) continue;
    if (act->op == "aten::silu") return Fused{"fused::swiglu", {act->args[0], up}};
    const auto* form = act->args.size() > 1 ? std::get_if<std::string>(&act->args[1].is) : nullptr;
    if (form != nullptr && *form == "tanh") return Fused{"fused::geglu", {act->args[0], up}};
  }
  return std::nullopt;
}

}  // namespace roundtable
