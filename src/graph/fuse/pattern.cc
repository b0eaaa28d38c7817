// Looking backwards from a node.
#include "graph/fuse/pattern.h"

#include <algorithm>

namespace roundtable {

PatternGraph::PatternGraph(const GraphPart& part, c10::ScalarType dtype)
    : made_by_(static_cast<std::size_t>(part.values)), parameter_(made_by_.size()), sharing_(part), dtype_(dtype) {
  for (const GraphNode& node : part.nodes) {
    for (const auto& value : node.out) {
      if (value) made_by_[static_cast<std::size_t>(*value)] = &node;
    }
  }
  for (const GraphInput& input : part.inputs) {
    parameter_[static_cast<std::size_t>(input.value)] = input.kind == InputKind::kParameter;
  }
}

bool PatternGraph::is_safe(const GraphNode& node) const {
  bool safe = true;
  const auto look = [&](std::int64_t value) { safe = safe && !sharing_.is_written(value); };
  for (const Argument& arg : node.args) arg.for_each_value(look);
  for (const auto& value : node.out) {
    if (value) look(*value);
  }
  return safe;
}

const GraphNode* PatternGraph::maker(const GraphNode& user, const Argument& argument,
                                     std::initializer_list<std::string_view> ops) const {
  const auto value = argument.value();
  const GraphNode* node = value ? made_by_[static_cast<std::size_t>(*value)] : nullptr;
  if (node == nullptr || std::find(ops.begin(), ops.end(), node->op) == ops.end()) return nullptr;
  return node->no_grad == user.no_grad && is_safe(*node) ? node : nullptr;
}

bool PatternGraph::is_parameter(const Argument& argument) const {
  const auto value = argument.value();
  return value && parameter_[static_cast<std::size_t>(*value)];
}

std::optional<double> number(const Argument& argument) {
  if (const auto* real = std::get_if<double>(&argument.is)) return *real;
  if (const auto* whole = std::get_if<std::int64_t>(&argument.is)) return static_cast<double>(*whole);
  return std::nullopt;
}

bool is_number(const GraphNode& node, std::size_t argument, double wanted) {
  return argument < node.args.size() && number(node.args[argument]) == wanted;
}

bool same_value(const Argument& a, const Argument& b) { return a.value() && a.value() == b.value(); }

std::optional<Cast> cast_of(const GraphNode& node) {
  if (node.op == "aten::type_as") return Cast{&node, node.args[0], std::nullopt, node.args[1]};
  if (node.op != "aten::to.dtype") return std::nullopt;
  return Cast{&node, node.args[0], std::get<c10::ScalarType>(node.args[1].is), std::nullopt};
}

}  // namespace roundtable
