// Sets of values, joined along the annotations of schemas: Tensor(a) -> Tensor(a).
#include "graph/format/sharing.h"

#include <algorithm>
#include <numeric>
#include <string_view>

#include "graph/run/operator_lookup.h"

namespace roundtable {
namespace {

// The result may share memory with the first argument although the schema does not say so.
constexpr std::string_view kQuietViews[] = {"aten::type_as", "aten::_unsafe_view", "aten::broadcast_tensors"};

// The same of argument `number`, as a tag or the list above says.
bool may_share_quietly(const c10::OperatorHandle& op, std::string_view name, std::size_t number) {
  const bool listed = std::find(std::begin(kQuietViews), std::end(kQuietViews), name) != std::end(kQuietViews);
  return listed ? number == 0 : op.hasTag(at::Tag::maybe_aliasing_or_mutating);
}

bool is_int(const GraphNode& node) { return node.op.starts_with("int::"); }

}  // namespace

bool is_write(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

bool writes(const GraphNode& node) {
  if (is_int(node) || node.args.empty()) return false;
  const auto op = find_operator(node.op);
  return is_write(op->schema().arguments()[0]);
}

Sharing::Sharing(const GraphPart& part)
    : parent_(static_cast<std::size_t>(part.values)), input_(parent_.size()), written_(parent_.size()) {
  std::iota(parent_.begin(), parent_.end(), 0);
  for (const GraphInput& input : part.inputs) input_[static_cast<std::size_t>(input.value)] = true;
  for (const GraphNode& node : part.nodes) {
    if (is_int(node)) continue;
    const auto op = find_operator(node.op);
    const auto& formals = op->schema().arguments();
    const std::string_view name = std::string_view(node.op).substr(0, node.op.find('.'));
    for (std::size_t i = 0; i < node.args.size(); ++i) {
      node.args[i].for_each_value([&](std::int64_t value) {
        if (is_write(formals[i])) written_[root(value)] = true;
        if (formals[i].alias_info() == nullptr && !may_share_quietly(*op, name, i)) return;
        for (const auto& result : node.out) {
          if (result) join(value, *result);
        }
      });
    }
  }
}

void Sharing::join(std::int64_t a, std::int64_t b) {
  const std::size_t from = root(a), to = root(b);
  parent_[from] = to;
  input_[to] = input_[to] || input_[from];
  written_[to] = written_[to] || written_[from];
}

std::size_t Sharing::root(std::int64_t value) {
  auto at = static_cast<std::size_t>(value);
  while (parent_[at] != at) at = parent_[at] = parent_[parent_[at]];
  return at;
}

}  // namespace roundtable
