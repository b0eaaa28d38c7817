// Sums over the nodes.
#include "graph/cost.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <variant>

#include "graph/format/products.h"
#include "graph/fuse/fuse.h"
#include "model/attention/attention.h"

namespace roundtable {
namespace {

constexpr std::string_view kAttention = "rt::attention";
constexpr std::size_t kCausal = 6, kWindow = 7;  // of its arguments
constexpr std::size_t kEnds = 3;                 // of those of rt::expert_linear
constexpr double kNormsAndResidual = 2;          // hidden states that the backward pass of a block holds besides

class Counter {
 public:
  Counter(const Model& model, std::size_t kind)
      : model_(model),
        part_(fuse(model.graphs().kinds[kind], model.dtype())),
        products_(products_of(part_)),
        seqlen_(static_cast<double>(model.seqlen())) {}

  KindCost count() {
    for (std::size_t i = 0; i < part_.nodes.size(); ++i) look_at(i, part_.nodes[i]);
    cost_.kept /= element() * seqlen_;
    for (const auto& [ends, route] : routes_) cost_.routed += route.to + route.from;
    double hidden = 1;
    for (const std::int64_t size : model_.graphs().boundary.at("hidden").shape) hidden *= static_cast<double>(size);
    cost_.spare = 3 * largest_bytes_ / element() / seqlen_ + kNormsAndResidual * hidden / seqlen_;
    return cost_;
  }

 private:
  double element() const { return static_cast<double>(c10::elementSize(model_.dtype())); }

  void look_at(std::size_t index, const GraphNode& node) {
    const bool differentiable = depends_on_weights(node);
    const auto product = products_.find(index);
    const double flops = static_cast<double>(node.flops) / seqlen_;
    if (product != products_.end()) {
      if (product->second.form == ProductForm::kExperts) note_route(node, product->second, flops / 2);
      cost_.active += flops / 2;
      if (!differentiable) cost_.input_parameters += flops / 2;
    } else if (node.op == kAttention) {
      cost_.attention_flops += flops * seen_share(node);
    } else {
      cost_.other_flops += flops;
    }
    if (product != products_.end() || differentiable) {
      for (const auto& value : node.out) {
        if (value) with_gradient_.insert(*value);
      }
      cost_.kept += static_cast<double>(node.bytes);
      largest_bytes_ = std::max(largest_bytes_, static_cast<double>(node.bytes));
    } else {
      cost_.kept += static_cast<double>(node.bytes);  // the input of a layer, which its weight's gradient needs
    }
  }

  // Rows go to the first product of a dispatch and come back behind the last (experts/divide.h). `active`: weights that a
  // token meets.
  void note_route(const GraphNode& node, const Product& product, double active) {
    std::int64_t out = 0;
    for (const MatrixPlace& matrix : product.matrices) out += matrix.expert == 0 ? matrix.rows : 0;
    const std::vector<std::int64_t>& shape = part_.parameters.at(product.weight).shape;
    const auto in = static_cast<double>(shape[1] * shape[2]) / static_cast<double>(out);
    const double experts_of_a_token = active / (in * static_cast<double>(out));
    Route& route = routes_[node.args.at(kEnds).value().value_or(-1)];
    if (route.to == 0) route.to = experts_of_a_token * in;
    route.from = experts_of_a_token * static_cast<double>(out);
  }

  bool depends_on_weights(const GraphNode& node) const {
    bool found = false;
    for (const Argument& arg : node.args) {
      arg.for_each_value([&](std::int64_t value) { found = found || with_gradient_.contains(value); });
    }
    return found;
  }

  // Of all pairs of positions: what is left of a window or the lower half, and half of the last tile. With a window of
  // w, position i sees min(i, w) others.
  double seen_share(const GraphNode& node) {
    cost_.plain_attention = true;
    const auto* causal = std::get_if<bool>(&node.args.at(kCausal).is);
    if (causal == nullptr || !*causal) return 1;
    const auto* window = std::get_if<std::int64_t>(&node.args.at(kWindow).is);
    if (window != nullptr) cost_.window = *window;
    const double reach = cost_.window > 0 ? std::min(static_cast<double>(cost_.window), seqlen_) : seqlen_;
    const double seen = reach - reach * reach / (2 * seqlen_);
    return std::min(1.0, (seen + kAttentionTileRows / 2.0) / seqlen_);
  }

  struct Route {
    double to = 0, from = 0;  // elements of a token
  };

  const Model& model_;
  GraphPart part_;
  std::map<std::size_t, Product> products_;
  double seqlen_;
  KindCost cost_;
  double largest_bytes_ = 0;
  std::map<std::int64_t, Route> routes_;  // by the value of their ends
  std::set<std::int64_t> with_gradient_;  // values that depend on a weight that is tuned
};

}  // namespace

KindCost count_kind(const Model& model, std::size_t kind) {
  KindCost cost = Counter(model, kind).count();
  const KindTable& table = model.kind(kind);
  for (const LinearSpec& linear : table.linears) {
    const auto weights = static_cast<double>(linear.out * linear.in);
    cost.parameters += weights;
    if (linear.expert >= 0) cost.expert_parameters += weights;
    cost.largest = std::max(cost.largest, weights);
  }
  for (const ParameterSpec& other : table.others) cost.other_parameters += static_cast<double>(other.elements());
  return cost;
}

}  // namespace roundtable
