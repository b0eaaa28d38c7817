// Linear layers in the place of a graph's products.
#include "graph/block.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "graph/experts/divide.h"
#include "graph/fuse/fuse.h"
#include "graph/operators/library.h"
#include "model/forward/grouped_linear.h"
#include "model/load/stacked_rows.h"

namespace roundtable {
namespace {

constexpr std::size_t kFixed = std::size_t{1} << 32;  // more than any block has layers: the places of fixed_ begin here

// [out, in] of one expert as a view of the parameter.
torch::Tensor out_in(const Product& product, const torch::Tensor& weight, std::int64_t expert) {
  const torch::Tensor matrix = weight.dim() == 3 ? weight[expert] : weight;
  return product.in_out ? matrix.t() : matrix;
}

torch::Tensor rows_of(const torch::Tensor& whole, const MatrixPlace& place) {
  return whole.slice(0, place.first, place.first + (place.rows - 1) * place.step + 1, place.step).contiguous();
}

// Where each row of a weight lies among the outputs of its matrices; undefined where they lie in order.
torch::Tensor order_of(const std::vector<const MatrixPlace*>& matrices, torch::Device device) {
  std::vector<std::int64_t> rows;
  for (const MatrixPlace* matrix : matrices) {
    for (std::int64_t i = 0; i < matrix->rows; ++i) rows.push_back(matrix->first + i * matrix->step);
  }
  if (std::is_sorted(rows.begin(), rows.end())) return {};
  return torch::tensor(rows, torch::kInt64).argsort().to(device);
}

}  // namespace

BlockKind::BlockKind(const GraphManifest& manifest, std::size_t kind, const TensorsByName& constants,
                     torch::Device device, std::shared_ptr<ExpertExchange> exchange)
    : exchange_(std::move(exchange)),
      part_(exchange_ ? divide_experts(fuse(manifest.kinds.at(kind), manifest.dtype))
                      : fuse(manifest.kinds.at(kind), manifest.dtype)),
      boundary_(manifest.boundary),
      program_(part_, constants, device, manifest.batch),
      device_(device) {
  for (const GraphNode& node : part_.nodes) {
    if (node.op != "rt::dispatch") continue;
    const auto* experts = std::get_if<std::int64_t>(&node.args[kExpertsOfDispatch].is);
    if (experts != nullptr) experts_ = std::max(experts_, *experts);
  }
  for (const auto& [node, product] : program_.products()) {
    const bool layers_alone =
        std::all_of(product.matrices.begin(), product.matrices.end(),
                    [](const MatrixPlace& matrix) { return matrix.use == TensorUse::kLinear; });
    if (layers_alone) made_of_layers_.insert(product.weight);
    for (const MatrixPlace& matrix : product.matrices) {
      if (matrix.use == TensorUse::kLinear) dtypes_of_layers_.push_back(part_.parameters.at(product.weight).dtype);
    }
  }
}

// Multiplies with the block's layers, and counts tokens.
class Block::Products : public ProductHooks {
 public:
  // `idle`: see forward_idle().
  Products(const Block& block, bool idle) : block_(block), idle_(idle) {}

  torch::Tensor multiply(const Product& product, const torch::Tensor& x, const torch::Tensor& ends) override {
    const std::vector<Layers>& experts = block_.layers_.at(&product);
    if (product.form == ProductForm::kExperts) {
      return multiply_rows(experts, x, on_host(ends, std::ssize(experts), x.size(0)), ends);
    }
    if (product.form != ProductForm::kBmm) return block_.run(experts.front(), x, !idle_);
    TORCH_CHECK(x.dim() == 3 && x.size(0) == static_cast<std::int64_t>(experts.size()),
                "there must be one matrix per expert");
    std::vector<std::int64_t> even;
    for (std::int64_t e = 1; e <= x.size(0); ++e) even.push_back(e * x.size(1));
    return multiply_rows(experts, x.flatten(0, 1), even, {}).unflatten(0, {x.size(0), x.size(1)});
  }

  torch::Tensor choices(const torch::Tensor& index, std::int64_t experts) override {
    return block_.chooser_ && !idle_ ? block_.chooser_(index, experts) : index;
  }

  void dispatched(const torch::Tensor& ends) override {
    if (idle_) return;
    const std::vector<std::int64_t>& all = on_host(ends, ends.size(0), std::numeric_limits<std::int64_t>::max());
    std::int64_t begin = 0;
    for (std::size_t e = 0; e < all.size() && e < block_.expert_tokens_.size(); ++e) {
      block_.expert_tokens_[e] += all[e] - begin;
      begin = all[e];
    }
  }

  std::pair<torch::Tensor, torch::Tensor> to_owners(const torch::Tensor& rows, const torch::Tensor& ends) override {
    ExpertExchange* exchange = block_.kind_->exchange();
    if (exchange == nullptr) return {rows, ends};
    const std::vector<std::int64_t> none(static_cast<std::size_t>(ends.size(0)));
    const std::vector<std::int64_t>& here = idle_ ? none : on_host(ends, ends.size(0), rows.size(0));
    Away away{std::make_shared<ExpertRoute>(exchange->group, here, rows.device(), exchange->figures), {}, rows.size(0)};
    // Rows behind the last expert's are nobody's, and stay.
    away.rows = away.route->to_owners(rows.narrow(0, 0, here.empty() ? 0 : here.back()));
    last_ends_ = away.route->ends();
    host_ = away.route->host_ends();
    away_.push_back(away);
    return {away.rows, last_ends_};
  }

  torch::Tensor from_owners(const torch::Tensor& rows, const torch::Tensor& ends) override {
    if (block_.kind_->exchange() == nullptr) return rows;
    const auto away = std::find_if(away_.begin(), away_.end(),
                                   [&](const Away& found) { return found.route->ends().is_same(ends); });
    RT_CHECK(away != away_.end());
    const torch::Tensor back = away->route->from_owners(rows, away->rows);
    if (back.size(0) == away->rows_here) return back;
    // Rows that no expert takes keep zeros, and so do all rows of a rank without samples.
    std::vector<std::int64_t> shape = back.sizes().vec();
    shape.front() = away->rows_here - shape.front();
    return torch::cat({back, torch::zeros(shape, back.options())});
  }

 private:
  // Rows that are at the ranks of their experts.
  struct Away {
    std::shared_ptr<const ExpertRoute> route;
    torch::Tensor rows;
    std::int64_t rows_here = 0;
  };

  // An expert without a token is not run: its weights get no gradient, and stay rounded to nearest.
  torch::Tensor multiply_rows(const std::vector<Layers>& experts, const torch::Tensor& rows,
                              const std::vector<std::int64_t>& ends, const torch::Tensor& ends_there) const {
    // Where ranks divide the experts, those that this one holds follow each other, and no other has rows.
    const auto [first, last] = held(experts);
    std::vector<ExpertLayers> layers(last - first);
    for (std::size_t e = first; e < last; ++e) {
      for (const std::size_t place : experts[e].linears) layers[e - first].side_by_side.push_back(&block_.layer(place));
      layers[e - first].order = experts[e].order;
    }
    const auto begin = static_cast<std::ptrdiff_t>(first), end = static_cast<std::ptrdiff_t>(last);
    LinearObserver observe;
    if (block_.observer_) {
      observe = [this](const Linear& layer, const torch::Tensor& x, const torch::Tensor& y) {
        if (block_.is_own(layer)) block_.observer_(layer, x, y);
      };
    }
    return grouped_linear(rows, layers, {ends.begin() + begin, ends.begin() + end},
                          ends_there.defined() ? ends_there.narrow(0, begin, end - begin) : ends_there, observe);
  }

  // The experts [first, last) whose weights are here.
  std::pair<std::size_t, std::size_t> held(const std::vector<Layers>& experts) const {
    const auto is_here = [&](const Layers& layers) { return block_.layer(layers.linears.front()).weight.defined(); };
    const auto first = std::find_if(experts.begin(), experts.end(), is_here);
    const auto last = std::find_if_not(first, experts.end(), is_here);
    RT_CHECK(first != last);
    return {static_cast<std::size_t>(first - experts.begin()), static_cast<std::size_t>(last - experts.begin())};
  }

  // The products of a mixture share the ends of one dispatch: a device is asked once.
  const std::vector<std::int64_t>& on_host(const torch::Tensor& ends, std::int64_t experts, std::int64_t rows) {
    if (!last_ends_.is_same(ends)) {
      host_ = host_ends(ends, experts, rows);
      last_ends_ = ends;
    }
    TORCH_CHECK(static_cast<std::int64_t>(host_.size()) == experts && (host_.empty() || host_.back() <= rows),
                "ends do not fit the experts and the rows");
    return host_;
  }

  const Block& block_;
  bool idle_;
  std::vector<Away> away_;
  torch::Tensor last_ends_;
  std::vector<std::int64_t> host_;
};

Block::Block(std::shared_ptr<const BlockKind> kind, const GraphBlock& entry, TensorsByName parameters,
             const std::vector<torch::Tensor>& weights)
    : kind_(std::move(kind)), takes_(entry.takes), gives_(entry.gives), parameters_(std::move(parameters)) {
  for (const auto& [name, spec] : kind_->part().parameters) {
    if (kind_->made_of_layers().contains(name)) continue;
    const torch::Tensor& tensor = parameters_.at(name);
    RT_CHECK(tensor.sizes() == spec.shape && tensor.scalar_type() == spec.dtype && tensor.is_contiguous());
  }
  const std::vector<torch::Tensor> own = stacked_copies(weights, device(), kind_->dtypes_of_layers());
  for (const auto& [node, product] : kind_->program().products()) {
    add_product(product, own);
    parameters_[product.weight] = torch::Tensor();  // only the product takes it
  }
  RT_CHECK(weights.size() == linears_.size());
  expert_tokens_.resize(static_cast<std::size_t>(kind_->experts()));
}

void Block::add_product(const Product& product, const std::vector<torch::Tensor>& weights) {
  const bool batched = product.form == ProductForm::kExperts || product.form == ProductForm::kBmm;
  const torch::Tensor bias = product.bias.empty() ? torch::Tensor() : parameters_.at(product.bias);
  std::map<std::int64_t, std::vector<const MatrixPlace*>> experts;
  for (const MatrixPlace& matrix : product.matrices) experts[matrix.expert].push_back(&matrix);
  for (const auto& [expert, matrices] : experts) {
    Layers layers;
    const torch::Tensor own_bias = bias.defined() && bias.dim() == 2 ? bias[expert] : bias;
    for (const MatrixPlace* matrix : matrices) {
      const bool tuned = matrix->use == TensorUse::kLinear;
      std::vector<Linear>& list = tuned ? linears_ : fixed_;
      layers.linears.push_back(list.size() + (tuned ? 0 : kFixed));
      list.push_back({matrix->name,
                      weight_of(product, *matrix, tuned ? weights.at(linears_.size()) : torch::Tensor()),
                      own_bias.defined() ? rows_of(own_bias, *matrix) : torch::Tensor(),
                      batched ? matrix->expert : -1,
                      {}});
    }
    layers.order = order_of(matrices, device());
    layers_[&product].push_back(std::move(layers));
  }
}

// [out, in]; `own`: of a layer of linears().
torch::Tensor Block::weight_of(const Product& product, const MatrixPlace& matrix, const torch::Tensor& own) const {
  if (matrix.use != TensorUse::kLinear) {
    return rows_of(out_in(product, parameters_.at(product.weight), matrix.expert), matrix);
  }
  RT_CHECK(!own.defined() || own.size(0) == matrix.rows);
  return own;
}

std::vector<std::string> Block::gives() const {
  std::vector<std::string> names;
  for (const auto& [own, name] : gives_) names.push_back(name);
  return names;
}

const Linear& Block::layer(std::size_t place) const {
  return place < kFixed ? linears_[place] : fixed_[place - kFixed];
}

// One of linears(), which observers see.
bool Block::is_own(const Linear& layer) const {
  const std::less<const Linear*> before;
  return !linears_.empty() && !before(&layer, linears_.data()) && !before(&linears_.back(), &layer);
}

torch::Tensor Block::run(const Layers& layers, const torch::Tensor& x, bool observed) const {
  std::vector<torch::Tensor> parts;
  for (const std::size_t place : layers.linears) {
    parts.push_back(layer(place).forward(x));
    if (observer_ && observed && place < kFixed) observer_(layer(place), x, parts.back());
  }
  const torch::Tensor y = parts.size() == 1 ? parts.front() : torch::cat(parts, -1);
  return layers.order.defined() ? y.index_select(-1, layers.order) : y;
}

torch::Tensor Block::forward(const torch::Tensor& hidden) const {
  SideTensors none;
  return forward(hidden, none);
}

torch::Tensor Block::forward(const torch::Tensor& hidden, SideTensors& side) const {
  return run_graph(hidden, side, /*idle=*/false);
}

torch::Tensor Block::forward_idle(const torch::Tensor& hidden, SideTensors& side) const {
  return run_graph(hidden, side, /*idle=*/true);
}

torch::Tensor Block::run_graph(const torch::Tensor& hidden, SideTensors& side, bool idle) const {
  GraphTensors in{hidden, side.tokens, {}};
  for (const auto& [name, flowing] : takes_) in.carried[name] = side.carried.at(flowing);
  Products products(*this, idle);
  GraphTensors out = kind_->program().forward(in, parameters_, &products);
  check_result(out.hidden, "hidden", hidden.size(0));
  for (const auto& [name, flowing] : gives_) {
    check_result(out.carried.at(name), flowing, hidden.size(0));
    side.carried[flowing] = out.carried.at(name);
  }
  return out.hidden;
}

void Block::check_result(const torch::Tensor& tensor, const std::string& name, std::int64_t batch) const {
  const GraphTensorSpec& spec = kind_->boundary().at(name);
  std::vector<std::int64_t> shape{batch};
  shape.insert(shape.end(), spec.shape.begin(), spec.shape.end());
  if (tensor.sizes() == shape && tensor.scalar_type() == spec.dtype) return;
  throw bad_input(kind_->part().place,
                  fmt::format("it gives {} as [{}] of {}, and boundary says [{}] of {}", shown(name),
                              fmt::join(tensor.sizes(), ", "), c10::toString(tensor.scalar_type()),
                              fmt::join(shape, ", "), c10::toString(spec.dtype)),
                  kExportAgain);
}

}  // namespace roundtable
