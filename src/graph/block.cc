// Linear layers in the place of a graph's products.
#include "graph/block.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "graph/fuse/fuse.h"
#include "graph/operators/library.h"
#include "model/forward/grouped_linear.h"

namespace roundtable {
namespace {

constexpr std::size_t kExpertsOfDispatch = 2;         // of its arguments
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
                     torch::Device device)
    : part_(fuse(manifest.kinds.at(kind), manifest.dtype)),
      boundary_(manifest.boundary),
      program_(part_, constants, device, manifest.batch),
      device_(device) {
  for (const GraphNode& node : part_.nodes) {
    if (node.op != "rt::dispatch") continue;
    const auto* experts = std::get_if<std::int64_t>(&node.args[kExpertsOfDispatch].is);
    if (experts != nullptr) experts_ = std::max(experts_, *experts);
  }
}

// Multiplies with the block's layers, and counts tokens.
class Block::Products : public ProductHooks {
 public:
  explicit Products(const Block& block) : block_(block) {}

  torch::Tensor multiply(const Product& product, const torch::Tensor& x, const torch::Tensor& ends) override {
    const std::vector<Layers>& experts = block_.layers_.at(&product);
    if (product.form == ProductForm::kExperts) {
      return multiply_rows(experts, x, on_host(ends, std::ssize(experts), x.size(0)), ends);
    }
    if (product.form != ProductForm::kBmm) return block_.run(experts.front(), x);
    TORCH_CHECK(x.dim() == 3 && x.size(0) == static_cast<std::int64_t>(experts.size()),
                "there must be one matrix per expert");
    std::vector<std::int64_t> even;
    for (std::int64_t e = 1; e <= x.size(0); ++e) even.push_back(e * x.size(1));
    return multiply_rows(experts, x.flatten(0, 1), even, {}).unflatten(0, {x.size(0), x.size(1)});
  }

  void dispatched(const torch::Tensor& ends) override {
    const std::vector<std::int64_t>& all = on_host(ends, ends.size(0), std::numeric_limits<std::int64_t>::max());
    std::int64_t begin = 0;
    for (std::size_t e = 0; e < all.size() && e < block_.expert_tokens_.size(); ++e) {
      block_.expert_tokens_[e] += all[e] - begin;
      begin = all[e];
    }
  }

 private:
  // An expert without a token is not run: its weights get no gradient, and stay rounded to nearest.
  torch::Tensor multiply_rows(const std::vector<Layers>& experts, const torch::Tensor& rows,
                              const std::vector<std::int64_t>& ends, const torch::Tensor& ends_there) const {
    std::vector<ExpertLayers> layers(experts.size());
    for (std::size_t e = 0; e < experts.size(); ++e) {
      for (const std::size_t place : experts[e].linears) layers[e].side_by_side.push_back(&block_.layer(place));
      layers[e].order = experts[e].order;
    }
    LinearObserver observe;
    if (block_.observer_) {
      observe = [this](const Linear& layer, const torch::Tensor& x, const torch::Tensor& y) {
        if (block_.is_own(layer)) block_.observer_(layer, x, y);
      };
    }
    return grouped_linear(rows, layers, ends, ends_there, observe);
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
  torch::Tensor last_ends_;
  std::vector<std::int64_t> host_;
};

Block::Block(std::shared_ptr<const BlockKind> kind, const GraphBlock& entry, TensorsByName parameters)
    : kind_(std::move(kind)), takes_(entry.takes), gives_(entry.gives), parameters_(std::move(parameters)) {
  for (const auto& [name, spec] : kind_->part().parameters) {
    const torch::Tensor& tensor = parameters_.at(name);
    RT_CHECK(tensor.sizes() == spec.shape && tensor.scalar_type() == spec.dtype && tensor.is_contiguous());
  }
  for (const auto& [node, product] : kind_->program().products()) {
    add_product(product, parameters_.at(product.weight),
                product.bias.empty() ? torch::Tensor() : parameters_.at(product.bias));
    parameters_[product.weight] = torch::Tensor();  // only the product takes it
  }
  expert_tokens_.resize(static_cast<std::size_t>(kind_->experts()));
}

void Block::add_product(const Product& product, const torch::Tensor& weight, const torch::Tensor& bias) {
  const bool batched = product.form == ProductForm::kExperts || product.form == ProductForm::kBmm;
  std::map<std::int64_t, std::vector<const MatrixPlace*>> experts;
  for (const MatrixPlace& matrix : product.matrices) experts[matrix.expert].push_back(&matrix);
  for (const auto& [expert, matrices] : experts) {
    Layers layers;
    const torch::Tensor whole = out_in(product, weight, expert);
    const torch::Tensor own_bias = bias.defined() && bias.dim() == 2 ? bias[expert] : bias;
    for (const MatrixPlace* matrix : matrices) {
      const bool tuned = matrix->use == TensorUse::kLinear;
      std::vector<Linear>& list = tuned ? linears_ : fixed_;
      layers.linears.push_back(list.size() + (tuned ? 0 : kFixed));
      list.push_back({matrix->name,
                      rows_of(whole, *matrix),
                      own_bias.defined() ? rows_of(own_bias, *matrix) : torch::Tensor(),
                      batched ? matrix->expert : -1,
                      {}});
    }
    layers.order = order_of(matrices, weight.device());
    layers_[&product].push_back(std::move(layers));
  }
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

torch::Tensor Block::run(const Layers& layers, const torch::Tensor& x) const {
  std::vector<torch::Tensor> parts;
  for (const std::size_t place : layers.linears) {
    parts.push_back(layer(place).forward(x));
    if (observer_ && place < kFixed) observer_(layer(place), x, parts.back());
  }
  const torch::Tensor y = parts.size() == 1 ? parts.front() : torch::cat(parts, -1);
  return layers.order.defined() ? y.index_select(-1, layers.order) : y;
}

torch::Tensor Block::forward(const torch::Tensor& hidden) const {
  SideTensors none;
  return forward(hidden, none);
}

torch::Tensor Block::forward(const torch::Tensor& hidden, SideTensors& side) const {
  GraphTensors in{hidden, side.tokens, {}};
  for (const auto& [name, flowing] : takes_) in.carried[name] = side.carried.at(flowing);
  Products products(*this);
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
