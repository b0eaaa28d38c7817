// The order of values, and what a part takes and gives.
#include <fmt/format.h>

#include <set>
#include <utility>
#include <vector>

#include "base/text.h"
#include "graph/format/checks.h"

namespace roundtable {
namespace {

// How often a part takes or gives something without a name.
template <class List, class Kind>
std::size_t count(const List& list, Kind kind) {
  std::size_t n = 0;
  for (const auto& entry : list) n += entry.kind == kind ? 1 : 0;
  return n;
}

constexpr std::size_t kAnyNumber = ~std::size_t{0};

void expect_count(const GraphPart& part, const char* what, std::size_t found, std::size_t least, std::size_t most) {
  if (found >= least && found <= most) return;
  refuse_graph(part.place,
               fmt::format("it has {} {} {}, and must have {}", found, what, found == 1 ? "entry" : "entries",
                           most == 0       ? "none"
                           : least == most ? "exactly one"
                                           : "one"));
}

void check_role(const GraphPart& part) {
  const bool embed = part.role == PartRole::kEmbed;
  const bool head = part.role == PartRole::kHead;
  expect_count(part, "inputs 'hidden':", count(part.inputs, InputKind::kHidden), embed ? 0 : 1, embed ? 0 : 1);
  expect_count(part, "inputs 'tokens':", count(part.inputs, InputKind::kTokens), embed ? 1 : 0, head ? 0 : kAnyNumber);
  if (embed || head) expect_count(part, "inputs 'carried':", count(part.inputs, InputKind::kCarried), 0, 0);
  expect_count(part, "outputs 'hidden':", count(part.outputs, OutputKind::kHidden), head ? 0 : 1, head ? 0 : 1);
  expect_count(part, "outputs 'logits':", count(part.outputs, OutputKind::kLogits), head ? 1 : 0, head ? 1 : 0);
  if (head) expect_count(part, "outputs 'carried':", count(part.outputs, OutputKind::kCarried), 0, 0);
}

void check_names(const GraphPart& part) {
  std::set<std::pair<InputKind, std::string>> seen;
  for (const GraphInput& input : part.inputs) {
    if (input.name.empty()) continue;
    if (!seen.insert({input.kind, input.name}).second) {
      refuse_graph(part.place, fmt::format("two inputs name {}", shown(input.name)));
    }
    if (input.kind == InputKind::kParameter && !part.parameters.contains(input.name)) {
      refuse_graph(part.place, fmt::format("input {} is not one of the part's parameters", shown(input.name)));
    }
  }
  std::set<std::string> given;
  for (const GraphOutput& output : part.outputs) {
    if (!output.name.empty() && !given.insert(output.name).second) {
      refuse_graph(part.place, fmt::format("two outputs name {}", shown(output.name)));
    }
  }
}

// Marks values as they are set and taken.
class Values {
 public:
  explicit Values(std::int64_t n) : set_(static_cast<std::size_t>(n)), taken_(static_cast<std::size_t>(n)) {}

  void set(std::int64_t value, const std::string& place) {
    if (set_[static_cast<std::size_t>(value)]) refuse_graph(place, fmt::format("value {} is set a second time", value));
    set_[static_cast<std::size_t>(value)] = true;
  }
  void take(std::int64_t value, const std::string& place) {
    if (!set_[static_cast<std::size_t>(value)])
      refuse_graph(place, fmt::format("value {} is taken before it is set", value));
    taken_[static_cast<std::size_t>(value)] = true;
  }
  bool is_taken(std::int64_t value) const { return taken_[static_cast<std::size_t>(value)]; }

 private:
  std::vector<bool> set_;
  std::vector<bool> taken_;
};

}  // namespace

void check_values(const GraphPart& part) {
  check_role(part);
  check_names(part);
  Values values(part.values);
  for (const GraphInput& input : part.inputs) values.set(input.value, part.place + ".inputs");
  for (const GraphNode& node : part.nodes) {
    for (const Argument& arg : node.args) {
      arg.for_each_value([&](std::int64_t value) { values.take(value, part.place_of(node)); });
    }
    for (const auto& value : node.out) {
      if (value) values.set(*value, part.place_of(node));
    }
  }
  for (const GraphOutput& output : part.outputs) values.take(output.value, part.place + ".outputs");
  for (const GraphInput& input : part.inputs) {
    if (values.is_taken(input.value) || input.kind == InputKind::kHidden) continue;
    refuse_graph(part.place,
                 fmt::format("nothing takes the input {}", input.name.empty() ? "'tokens'" : shown(input.name)));
  }
}

}  // namespace roundtable
