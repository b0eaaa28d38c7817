// One autograd node for all experts. A node per expert would, through the slices of its rows, fill and add gradients of
// all rows once per expert.
#include "model/forward/grouped_linear.h"

#include <ATen/Parallel.h>
#include <omp.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <utility>

#include "base/error.h"
#include "model/forward/grouped_mm.h"
#include "model/load/stacked_rows.h"

namespace roundtable {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

// Layers whose weights lie one below the other are one matrix, and one product.
struct Piece {
  std::size_t first = 0, count = 0;  // of the layers
  Tensor weight;                     // without autograd
  Tensor bias;
};

// An expert that has rows.
struct Part {
  std::int64_t begin = 0, end = 0;
  std::vector<const Linear*> layers;
  std::vector<Piece> pieces;
  Tensor order;
  std::int64_t window = 0;  // rows of its products: its own, and some behind them

  std::int64_t size() const { return end - begin; }
  Tensor rows_of(const Tensor& all) const { return all.narrow(0, begin, size()); }
  Tensor window_of(const Tensor& all) const {
    if (begin + window <= all.size(0)) return all.narrow(0, begin, window);
    return torch::constant_pad_nd(rows_of(all), {0, 0, 0, window - size()});
  }
  Tensor own_of(const Tensor& in_window) const { return in_window.narrow(0, 0, size()); }
};

std::vector<Piece> pieces_of(const std::vector<const Linear*>& layers) {
  std::vector<Piece> pieces;
  for (std::size_t first = 0; first < layers.size();) {
    std::vector<Tensor> weights{layers[first]->weight.detach()};
    std::size_t last = first + 1;
    for (; last < layers.size() && !layers[first]->bias.defined() && !layers[last]->bias.defined(); ++last) {
      weights.push_back(layers[last]->weight.detach());
      if (are_stacked(weights)) continue;
      weights.pop_back();
      break;
    }
    pieces.push_back({first, last - first, last == first + 1 ? weights[0] : stacked(weights), layers[first]->bias});
    first = last;
  }
  return pieces;
}

// oneDNN makes code for each shape of a product, for longer than a small product takes, and keeps it. Each step has
// other numbers of rows; rounded up there are few, for 2 % more work. The rows that come in addition are those behind,
// whose results are dropped: what an expert gives does not depend on who else is here. Products in fp32 are not oneDNN's.
std::int64_t window_for(std::int64_t size, const Tensor& rows) {
  if (!rows.is_cpu() || rows.scalar_type() == torch::kFloat32 || rows.scalar_type() == torch::kFloat64) return size;
  constexpr std::int64_t kLeastStep = 16, kStepsPerOctave = 16;
  const auto octave = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(size)));
  const std::int64_t step = std::max(kLeastStep, octave / kStepsPerOctave);
  return (size + step - 1) / step * step;
}

std::vector<Part> parts_of(const Tensor& rows, const std::vector<ExpertLayers>& experts,
                           const std::vector<std::int64_t>& ends) {
  RT_CHECK(experts.size() == ends.size());
  std::vector<Part> parts;
  std::int64_t begin = 0;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    if (ends[e] > begin) {
      const std::vector<const Linear*>& layers = experts[e].side_by_side;
      const std::int64_t window = window_for(ends[e] - begin, rows);
      parts.push_back({begin, ends[e], layers, pieces_of(layers), experts[e].order, window});
    }
    begin = ends[e];
  }
  return parts;
}

// Calls body(part) for each, on a CPU in parallel: the products of an expert are too small to keep several cores busy.
// One that has more than a core's share of the rows has all cores, before the others.
template <class Body>
void for_each_part(const std::vector<Part>& parts, bool in_parallel, const Body& body) {
  const auto threads = static_cast<std::int64_t>(in_parallel ? at::get_num_threads() : 1);
  std::int64_t rows = 0;
  for (const Part& part : parts) rows += part.size();
  std::vector<const Part*> small;
  for (const Part& part : parts) {
    if (threads == 1 || part.size() * threads > rows) {
      body(part);
    } else {
      small.push_back(&part);
    }
  }
  if (small.empty()) return;
  std::stable_sort(small.begin(), small.end(), [](const Part* a, const Part* b) { return a->size() > b->size(); });
  std::atomic<std::size_t> next = 0;
  at::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
    const at::NoGradGuard no_grad;
    // oneDNN divides a product by this number, and must not count on threads that are busy here.
    if (omp_in_parallel() != 0) omp_set_num_threads(1);
    for (std::size_t i = next++; i < small.size(); i = next++) body(*small[i]);
  });
}

Tensor product_of(const Piece& piece, const Tensor& x) {
  return piece.bias.defined() ? torch::addmm(piece.bias, x, piece.weight.t()) : torch::mm(x, piece.weight.t());
}

// The product of one expert, from all rows into its own ones of `y`.
void run_forward(const Part& part, const Tensor& rows, const Tensor& y, const LinearObserver& observe) {
  Tensor to = part.rows_of(y);
  const Tensor joined = part.order.defined() ? torch::empty_like(to) : to;
  std::int64_t column = 0;
  for (const Piece& piece : part.pieces) {
    const Tensor own = part.own_of(product_of(piece, part.window_of(rows)));
    joined.narrow(1, column, own.size(1)).copy_(own);
    column += own.size(1);
    std::int64_t first = 0;
    for (std::size_t i = piece.first; observe && i < piece.first + piece.count; ++i) {
      const std::int64_t out = part.layers[i]->weight.size(0);
      observe(*part.layers[i], part.rows_of(rows), own.narrow(1, first, out));
      first += out;
    }
  }
  if (part.order.defined()) torch::index_select_out(to, joined, 1, part.order);
}

class GroupedLinearBackward final : public torch::autograd::Node {
 public:
  GroupedLinearBackward(Tensor rows, std::vector<Part> parts) : rows_(std::move(rows)), parts_(std::move(parts)) {
    // Weights whose gradients nobody takes are leaves of the caller, or what the caller has computed.
    for (std::size_t p = 0; p < parts_.size(); ++p) {
      for (std::size_t i = 0; i < parts_[p].layers.size(); ++i) {
        const Linear& layer = *parts_[p].layers[i];
        if (!layer.take_gradient && layer.weight.requires_grad()) plain_.emplace_back(p, i);
      }
    }
  }

  // What asks for a gradient, in the order of apply()'s results.
  std::vector<Tensor> inputs(const Tensor& rows) const {
    std::vector<Tensor> all{rows};
    for (const auto& [part, layer] : plain_) all.push_back(parts_[part].layers[layer]->weight);
    return all;
  }

  variable_list apply(variable_list&& gradients) override {
    variable_list results(1 + plain_.size());
    if (!gradients[0].defined()) return results;
    const at::NoGradGuard no_grad;
    const Tensor dy = gradients[0].contiguous();
    if (task_should_compute_output(0)) {
      results[0] = torch::empty_like(rows_);
      const std::int64_t end = parts_.empty() ? 0 : parts_.back().end;
      results[0].narrow(0, end, rows_.size(0) - end).zero_();
    }
    for_each_part(parts_, dy.is_cpu(), [&](const Part& part) { run(part, dy, results[0]); });
    for (const Part& part : parts_) {
      for (const Linear* layer : part.layers) {
        if (layer->take_gradient && layer->gradient_taken) layer->gradient_taken();
      }
    }
    for (std::size_t i = 0; i < plain_.size(); ++i) results[1 + i] = gradient_of_plain(i, dy);
    return results;
  }

  void release_variables() override {
    rows_ = Tensor();
    parts_.clear();
  }

  std::string name() const override { return "GroupedLinearBackward"; }

 private:
  // From all rows of `dy` into the expert's own ones of `dx`, where that is defined.
  void run(const Part& part, const Tensor& dy, const Tensor& dx) const {
    const Tensor x = part.window_of(rows_);
    const Tensor joined = in_layer_order(part, part.rows_of(dy));
    Tensor sum;
    std::int64_t column = 0;
    for (const Piece& piece : part.pieces) {
      const Tensor own = with_zeros_behind(part, joined.narrow(1, column, piece.weight.size(0)));
      column += own.size(1);
      give_gradients(part, piece, own, x);
      if (!dx.defined()) continue;
      const Tensor one = torch::mm(own, piece.weight);
      sum = sum.defined() ? sum.add_(one) : one;
    }
    if (dx.defined()) part.rows_of(dx).copy_(part.own_of(sum));
  }

  // `own` with the window's rows. The rows that are not the expert's add nothing to a gradient of its weights.
  static Tensor with_zeros_behind(const Part& part, const Tensor& own) {
    return part.window == part.size() ? own : torch::constant_pad_nd(own, {0, 0, 0, part.window - part.size()});
  }

  static void give_gradients(const Part& part, const Piece& piece, const Tensor& dy, const Tensor& x) {
    const auto first = part.layers.begin() + static_cast<std::ptrdiff_t>(piece.first);
    const auto last = first + static_cast<std::ptrdiff_t>(piece.count);
    if (std::none_of(first, last, [](const Linear* layer) { return static_cast<bool>(layer->take_gradient); })) return;
    const Tensor gradient = torch::mm(dy.t(), x);
    std::int64_t row = 0;
    for (auto layer = first; layer != last; ++layer) {
      const std::int64_t out = (*layer)->weight.size(0);
      if ((*layer)->take_gradient) (*layer)->take_gradient(gradient.narrow(0, row, out));
      row += out;
    }
  }

  static Tensor in_layer_order(const Part& part, const Tensor& dy) {
    return part.order.defined() ? dy.index_select(1, part.order.argsort()) : dy;
  }

  Tensor gradient_of_plain(std::size_t i, const Tensor& dy) const {
    const auto [place, layer] = plain_[i];
    const Part& part = parts_[place];
    std::int64_t column = 0;
    for (std::size_t before = 0; before < layer; ++before) column += part.layers[before]->weight.size(0);
    const Tensor own = in_layer_order(part, part.rows_of(dy)).narrow(1, column, part.layers[layer]->weight.size(0));
    return torch::mm(own.t(), part.rows_of(rows_));
  }

  Tensor rows_;  // without autograd
  std::vector<Part> parts_;
  std::vector<std::pair<std::size_t, std::size_t>> plain_;  // part and layer
};

bool asks_for_gradients(const Tensor& rows, const std::vector<Part>& parts) {
  if (!at::GradMode::is_enabled()) return false;
  return rows.requires_grad() || std::any_of(parts.begin(), parts.end(), [](const Part& part) {
           return std::any_of(part.layers.begin(), part.layers.end(),
                              [](const Linear* layer) { return layer->weight.requires_grad(); });
         });
}

}  // namespace

Tensor grouped_linear(const Tensor& rows, const std::vector<ExpertLayers>& experts,
                      const std::vector<std::int64_t>& ends, const Tensor& ends_there,
                      const LinearObserver& observe) {
  if (!observe && ends_there.defined() && rows.size(0) > 0 && has_grouped_mm(rows)) {
    if (const auto y = grouped_mm_linear(rows, experts, ends, ends_there)) return *y;
  }
  std::vector<Part> parts = parts_of(rows, experts, ends);
  std::int64_t out = 0;
  for (const Linear* layer : experts.front().side_by_side) out += layer->weight.size(0);
  const Tensor x = rows.detach();
  Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = torch::empty({x.size(0), out}, x.options());
    const std::int64_t end = parts.empty() ? 0 : parts.back().end;
    y.narrow(0, end, x.size(0) - end).zero_();
    for_each_part(parts, x.is_cpu() && !observe,
                  [&](const Part& part) { run_forward(part, x, y, observe); });
  }
  if (!asks_for_gradients(rows, parts)) return y;
  const auto node = c10::make_intrusive<GroupedLinearBackward>(x, std::move(parts));
  node->set_next_edges(torch::autograd::collect_next_edges(node->inputs(rows)));
  torch::autograd::set_history(y, node);
  return y;
}

}  // namespace roundtable
