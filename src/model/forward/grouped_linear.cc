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
#include <utility>

#include "base/error.h"
#include "model/forward/grouped_mm.h"

namespace roundtable {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

// An expert that has rows.
struct Part {
  std::int64_t begin = 0, end = 0;
  std::vector<const Linear*> layers;
  std::vector<Tensor> weights;  // of the layers, without autograd
  Tensor order;

  std::int64_t size() const { return end - begin; }
  Tensor rows_of(const Tensor& all) const { return all.narrow(0, begin, size()); }
};

std::vector<Part> parts_of(const std::vector<ExpertLayers>& experts, const std::vector<std::int64_t>& ends) {
  RT_CHECK(experts.size() == ends.size());
  std::vector<Part> parts;
  std::int64_t begin = 0;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    if (ends[e] > begin) {
      Part part{begin, ends[e], experts[e].side_by_side, {}, experts[e].order};
      for (const Linear* layer : part.layers) part.weights.push_back(layer->weight.detach());
      parts.push_back(std::move(part));
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

void multiply(const Linear& layer, const Tensor& weight, const Tensor& x, Tensor y) {
  if (layer.bias.defined()) {
    torch::addmm_out(y, layer.bias, x, weight.t());
  } else {
    torch::mm_out(y, x, weight.t());
  }
}

// The product of one expert.
void run_forward(const Part& part, const Tensor& x, Tensor y, const LinearObserver& observe) {
  Tensor joined = part.order.defined() ? torch::empty_like(y) : y;
  std::int64_t column = 0;
  for (std::size_t i = 0; i < part.layers.size(); ++i) {
    const std::int64_t out = part.weights[i].size(0);
    const Tensor own = joined.narrow(1, column, out);
    multiply(*part.layers[i], part.weights[i], x, own);
    if (observe) observe(*part.layers[i], x, own);
    column += out;
  }
  if (part.order.defined()) torch::index_select_out(y, joined, 1, part.order);
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
    for_each_part(parts_, dy.is_cpu(), [&](const Part& part) {
      run(part, part.rows_of(dy), results[0].defined() ? part.rows_of(results[0]) : Tensor());
    });
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
  void run(const Part& part, const Tensor& dy, Tensor dx) const {
    const Tensor x = part.rows_of(rows_);
    const Tensor joined = in_layer_order(part, dy);
    std::int64_t column = 0;
    for (std::size_t i = 0; i < part.layers.size(); ++i) {
      const std::int64_t out = part.weights[i].size(0);
      const Tensor own = joined.narrow(1, column, out);
      column += out;
      if (part.layers[i]->take_gradient) part.layers[i]->take_gradient(torch::mm(own.t(), x));
      if (!dx.defined()) continue;
      if (i == 0) {
        torch::mm_out(dx, own, part.weights[i]);
      } else {
        dx.add_(torch::mm(own, part.weights[i]));
      }
    }
  }

  static Tensor in_layer_order(const Part& part, const Tensor& dy) {
    return part.order.defined() ? dy.index_select(1, part.order.argsort()) : dy;
  }

  Tensor gradient_of_plain(std::size_t i, const Tensor& dy) const {
    const auto [place, layer] = plain_[i];
    const Part& part = parts_[place];
    std::int64_t column = 0;
    for (std::size_t before = 0; before < layer; ++before) column += part.weights[before].size(0);
    const Tensor own = in_layer_order(part, part.rows_of(dy)).narrow(1, column, part.weights[layer].size(0));
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
  std::vector<Part> parts = parts_of(experts, ends);
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
                  [&](const Part& part) { run_forward(part, part.rows_of(x), part.rows_of(y), observe); });
  }
  if (!asks_for_gradients(rows, parts)) return y;
  const auto node = c10::make_intrusive<GroupedLinearBackward>(x, std::move(parts));
  node->set_next_edges(torch::autograd::collect_next_edges(node->inputs(rows)));
  torch::autograd::set_history(y, node);
  return y;
}

}  // namespace roundtable
