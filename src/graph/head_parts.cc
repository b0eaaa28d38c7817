// Looking backwards from the logits to the product.
#include "graph/head_parts.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "graph/fuse/pattern.h"

namespace roundtable {
namespace {

constexpr const char* kProduct = "aten::linear";

// What a node gives depends on its first argument alone, number by number.
bool is_elementwise(const GraphNode& node) {
  if (node.op == "aten::tanh" || node.op == "aten::to.dtype") return true;
  return (node.op == "aten::mul.Tensor" || node.op == "aten::div.Tensor") && number(node.args[1]).has_value();
}

bool multiplies_by_parameters(const PatternGraph& graph, const GraphNode& node) {
  if (node.op != kProduct || !node.args[0].value() || graph.is_parameter(node.args[0])) return false;
  const bool bias = node.args.size() > 2 && node.args[2].value().has_value();
  return graph.is_parameter(node.args[1]) && (!bias || graph.is_parameter(node.args[2]));
}

// The nodes from the product to the logits, the last one first; empty if there is something else between them.
std::vector<const GraphNode*> tail_of(const GraphPart& head) {
  const PatternGraph graph(head, c10::ScalarType::Undefined);
  std::vector<const GraphNode*> tail;
  Argument wanted{Argument::Value{head.outputs.front().value}};
  while (const auto value = wanted.value()) {
    const auto makes = [&](const GraphNode& node) {
      return std::ranges::find(node.out, std::optional(*value)) != node.out.end();
    };
    const auto node = std::ranges::find_if(head.nodes, makes);
    if (node == head.nodes.end() || !graph.is_safe(*node)) return {};
    tail.push_back(&*node);
    if (multiplies_by_parameters(graph, *node)) return tail;
    if (!is_elementwise(*node)) return {};
    wanted = node->args[0];
  }
  return {};
}

// `head` with these nodes, from `in` to `out`, and with the parameters that they take.
GraphPart part_with(const GraphPart& head, std::vector<GraphNode> nodes, std::int64_t in, GraphOutput out) {
  GraphPart part = head;
  part.nodes = std::move(nodes);
  part.outputs = {std::move(out)};
  std::set<std::int64_t> taken{part.outputs.front().value};
  for (const GraphNode& node : part.nodes) {
    for (const Argument& arg : node.args) arg.for_each_value([&](std::int64_t value) { taken.insert(value); });
  }
  std::erase_if(part.inputs, [&](const GraphInput& input) {
    return input.kind == InputKind::kHidden || !taken.contains(input.value);
  });
  std::set<std::string> parameters;
  for (const GraphInput& input : part.inputs) {
    if (input.kind == InputKind::kParameter) parameters.insert(input.name);
  }
  part.inputs.push_back({.value = in, .kind = InputKind::kHidden});
  std::erase_if(part.parameters, [&](const auto& parameter) { return !parameters.contains(parameter.first); });
  std::erase_if(part.tensors, [&](const DiskTensor& tensor) { return !parameters.contains(tensor.param); });
  return part;
}

}  // namespace

HeadParts cut_head(const GraphPart& head) {
  const std::vector<const GraphNode*> tail = tail_of(head);
  if (tail.empty()) return {head, std::nullopt};
  std::vector<GraphNode> front, back;
  std::set<std::int64_t> of_tail;
  for (const GraphNode& node : head.nodes) {
    const bool in_tail = std::ranges::find(tail, &node) != tail.end();
    bool takes_tail = false;
    for (const Argument& arg : node.args) {
      arg.for_each_value([&](std::int64_t value) { takes_tail = takes_tail || of_tail.contains(value); });
    }
    if (!in_tail && takes_tail) return {head, std::nullopt};
    if (in_tail) of_tail.insert(node.out.front().value());
    (in_tail ? back : front).push_back(node);
  }
  const auto entry = [](const GraphPart& part) {
    return std::ranges::find(part.inputs, InputKind::kHidden, &GraphInput::kind)->value;
  };
  const std::int64_t features = tail.back()->args[0].value().value();
  return {part_with(head, std::move(front), entry(head), {.value = features, .kind = OutputKind::kHidden}),
          part_with(head, std::move(back), features, head.outputs.front())};
}

}  // namespace roundtable
