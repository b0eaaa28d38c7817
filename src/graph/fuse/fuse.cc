// The passes in turn over the nodes, and the removal of what they left behind.
#include "graph/fuse/fuse.h"

#include <algorithm>

#include "graph/fuse/pattern.h"

namespace roundtable {
namespace {

void drop_unused(GraphPart& part) {
  std::vector<bool> taken(static_cast<std::size_t>(part.values));
  for (const GraphOutput& output : part.outputs) taken[static_cast<std::size_t>(output.value)] = true;
  std::vector<GraphNode> kept;
  for (auto node = part.nodes.rbegin(); node != part.nodes.rend(); ++node) {
    const bool used = std::any_of(node->out.begin(), node->out.end(),
                                  [&](const auto& value) { return value && taken[static_cast<std::size_t>(*value)]; });
    if (!used && !writes(*node)) continue;
    for (const Argument& arg : node->args) {
      arg.for_each_value([&](std::int64_t value) { taken[static_cast<std::size_t>(value)] = true; });
    }
    kept.push_back(std::move(*node));
  }
  std::reverse(kept.begin(), kept.end());
  part.nodes = std::move(kept);
  std::erase_if(part.inputs, [&](const GraphInput& input) {
    return input.kind == InputKind::kConstant && !taken[static_cast<std::size_t>(input.value)];
  });
}

}  // namespace

GraphPart fuse(GraphPart part, c10::ScalarType dtype) {
  const GraphPart whole = part;  // the passes see the graph as it was
  const PatternGraph graph(whole, dtype);
  for (std::size_t i = 0; i < whole.nodes.size(); ++i) {
    const GraphNode& node = whole.nodes[i];
    if (node.out.size() != 1 || !graph.is_safe(node)) continue;
    auto fused = fused_norm_of(graph, node);
    if (!fused) fused = fused_rope_of(graph, node);
    if (!fused) fused = fused_gelu_of(graph, node);
    if (!fused) fused = fused_gate_of(graph, node);
    if (!fused) continue;
    part.nodes[i].op = std::move(fused->op);
    part.nodes[i].args = std::move(fused->args);
  }
  drop_unused(part);
  return part;
}

}  // namespace roundtable
