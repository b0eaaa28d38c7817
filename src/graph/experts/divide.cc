// Regions between the first and the last product of a dispatch, grown node by node.
#include "graph/experts/divide.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "graph/format/products.h"

namespace roundtable {
namespace {

constexpr std::string_view kDispatch = "rt::dispatch";

// Operators that give the row i of their result from the row i of their arguments [rows, width] and from what has no
// rows (numbers, parameters of the width).
constexpr std::array kRowByRow = {
    std::string_view("aten::silu"),       std::string_view("aten::gelu"),        std::string_view("aten::relu"),
    std::string_view("aten::sigmoid"),    std::string_view("aten::tanh"),        std::string_view("aten::mul.Tensor"),
    std::string_view("aten::mul.Scalar"), std::string_view("aten::add.Tensor"),  std::string_view("aten::add.Scalar"),
    std::string_view("aten::sub.Tensor"), std::string_view("aten::div.Tensor"),  std::string_view("aten::neg"),
    std::string_view("aten::clamp"),      std::string_view("aten::to.dtype"),    std::string_view("aten::pow.Tensor_Scalar"),
    std::string_view("aten::square"),     std::string_view("fused::swiglu"),     std::string_view("fused::geglu"),
    std::string_view("fused::gelu"),      std::string_view("fused::rms_norm"),
    std::string_view("fused::swiglu_of_halves"), std::string_view("fused::geglu_of_halves")};
// The same if they work along the last dimension: the place of that argument.
struct AlongLast {
  std::string_view op;
  std::size_t dim;
};
constexpr std::array kAlongLast = {AlongLast{"aten::chunk", 2}, AlongLast{"aten::slice.Tensor", 1},
                                   AlongLast{"aten::split.Tensor", 2}, AlongLast{"aten::split_with_sizes", 2}};

bool is_last_dimension(const GraphNode& node, std::size_t argument) {
  if (argument >= node.args.size()) return false;  // their default is the first
  const auto* dim = std::get_if<std::int64_t>(&node.args[argument].is);
  return dim != nullptr && (*dim == -1 || *dim == 1);
}

bool is_row_by_row(const GraphNode& node) {
  if (node.no_grad) return false;
  if (std::find(kRowByRow.begin(), kRowByRow.end(), node.op) != kRowByRow.end()) return true;
  return std::any_of(kAlongLast.begin(), kAlongLast.end(), [&](const AlongLast& along) {
    return along.op == node.op && is_last_dimension(node, along.dim);
  });
}

class Divider {
 public:
  explicit Divider(GraphPart part) : part_(std::move(part)) {
    for (const GraphInput& input : part_.inputs) {
      if (input.kind == InputKind::kParameter) parameters_.insert(input.value);
    }
    std::set<std::int64_t> dispatched;
    for (const GraphNode& node : part_.nodes) {
      if (node.op == kDispatch) dispatched.insert(node.out[kEndsOfDispatch].value_or(-1));
    }
    for (const auto& [node, product] : products_of(part_)) {
      if (product.form != ProductForm::kExperts) continue;
      RT_CHECK(dispatched.contains(part_.nodes[node].args[kEndsOfExpertLinear].value().value_or(-1)));
      products_.insert(node);
    }
  }

  GraphPart divide() {
    find_regions();
    std::vector<GraphNode> nodes;
    for (std::size_t i = 0; i < part_.nodes.size(); ++i) {
      bring_back(i, nodes);
      if (products_.contains(i)) send(part_.nodes[i], nodes);
      nodes.push_back(part_.nodes[i]);
    }
    bring_back_outputs(nodes);
    part_.nodes = std::move(nodes);
    return std::move(part_);
  }

 private:
  // What holds rows at the ranks of their experts: of the dispatch that gave these ends.
  using EndsOf = std::map<std::int64_t, std::int64_t>;

  void find_regions() {
    for (std::size_t i = 0; i < part_.nodes.size(); ++i) {
      const GraphNode& node = part_.nodes[i];
      std::optional<std::int64_t> ends;
      if (products_.contains(i)) {
        ends = node.args[kEndsOfExpertLinear].value();
      } else if (is_row_by_row(node)) {
        ends = common_ends(node);
      }
      if (!ends) continue;
      for (const auto& value : node.out) {
        if (value) away_[*value] = *ends;
      }
    }
  }

  // The one dispatch whose rows the node takes, if it takes nothing else that has rows.
  std::optional<std::int64_t> common_ends(const GraphNode& node) const {
    std::optional<std::int64_t> ends;
    bool fits = true;
    for (const Argument& arg : node.args) {
      arg.for_each_value([&](std::int64_t value) {
        if (parameters_.contains(value)) return;
        const auto found = away_.find(value);
        fits = fits && found != away_.end() && (!ends || *ends == found->second);
        if (found != away_.end()) ends = found->second;
      });
    }
    return fits ? ends : std::nullopt;
  }

  bool stays_away(std::size_t user, std::int64_t ends) const {
    const GraphNode& node = part_.nodes[user];
    if (products_.contains(user)) return node.args[kEndsOfExpertLinear].value() == ends;
    return std::any_of(node.out.begin(), node.out.end(), [&](const auto& value) {
      const auto found = value ? away_.find(*value) : away_.end();
      return found != away_.end() && found->second == ends;
    });
  }

  // In front of a node that needs rows in their old places.
  void bring_back(std::size_t user, std::vector<GraphNode>& nodes) {
    for (Argument& arg : part_.nodes[user].args) replace(arg, user, nodes);
  }
  void replace(Argument& arg, std::size_t user, std::vector<GraphNode>& nodes) {
    if (auto* list = std::get_if<Argument::List>(&arg.is)) {
      for (Argument& part : *list) replace(part, user, nodes);
    }
    const std::optional<std::int64_t> value = arg.value();
    const auto found = value ? away_.find(*value) : away_.end();
    if (found == away_.end() || stays_away(user, found->second)) return;
    arg.is = Argument::Value{back(*value, found->second, part_.nodes[user], nodes)};
  }
  std::int64_t back(std::int64_t value, std::int64_t ends, const GraphNode& user, std::vector<GraphNode>& nodes) {
    const auto [entry, is_new] = back_.emplace(value, part_.values);
    if (is_new) {
      nodes.push_back(made("fused::from_owners", {value, routed_.at(ends)}, {part_.values++}, user));
    }
    return entry->second;
  }
  void bring_back_outputs(std::vector<GraphNode>& nodes) {
    for (GraphOutput& output : part_.outputs) {
      const auto found = away_.find(output.value);
      if (found != away_.end()) output.value = back(output.value, found->second, nodes.back(), nodes);
    }
  }

  // In front of a product: its rows are at the ranks of their experts, and so are the ends.
  void send(GraphNode& product, std::vector<GraphNode>& nodes) {
    const std::int64_t ends = *product.args[kEndsOfExpertLinear].value();
    const std::int64_t rows = product.args[kRowsOfExpertLinear].value().value_or(-1);
    if (!away_.contains(rows)) {
      const auto [entry, is_new] = sent_.emplace(std::pair(rows, ends), part_.values);
      if (is_new) {
        const std::int64_t there = part_.values++;
        const std::int64_t ends_there = part_.values++;
        nodes.push_back(made("fused::to_owners", {rows, ends}, {there, ends_there}, product));
        routed_.emplace(ends, ends_there);
      }
      product.args[kRowsOfExpertLinear].is = Argument::Value{entry->second};
    }
    product.args[kEndsOfExpertLinear].is = Argument::Value{routed_.at(ends)};
  }

  static GraphNode made(const char* op, std::initializer_list<std::int64_t> values,
                        std::initializer_list<std::int64_t> out, const GraphNode& beside) {
    GraphNode node;
    node.op = op;
    for (const std::int64_t value : values) node.args.push_back({Argument::Value{value}});
    for (const std::int64_t value : out) node.out.emplace_back(value);
    node.index = beside.index;
    return node;
  }

  GraphPart part_;
  std::set<std::int64_t> parameters_;
  std::set<std::size_t> products_;  // of experts, by the place of the node
  EndsOf away_;                  // values whose rows are at the ranks of their experts
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> sent_;  // (rows, ends) -> rows there
  std::map<std::int64_t, std::int64_t> routed_;                         // ends -> ends there
  std::map<std::int64_t, std::int64_t> back_;                           // value -> the same in its old places
};

}  // namespace

GraphPart divide_experts(GraphPart part) { return Divider(std::move(part)).divide(); }

}  // namespace roundtable
