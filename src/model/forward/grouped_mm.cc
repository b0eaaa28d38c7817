// at::_grouped_mm, its layouts, and its autograd node.
#include "model/forward/grouped_mm.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/types.h>
#include <torch/utils.h>
#ifdef ROUNDTABLE_CUDA
#include <cuda_runtime_api.h>
#endif

#include <algorithm>
#include <utility>

#include "model/load/stacked_rows.h"

namespace roundtable {
namespace {

using torch::Tensor;
using torch::autograd::variable_list;

// Of the device that the tensor is on; 0 where there is no CUDA.
int compute_capability([[maybe_unused]] const Tensor& tensor) {
  int major = 0;
#ifdef ROUNDTABLE_CUDA
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, tensor.get_device()) != cudaSuccess) return 0;
#endif
  return major;
}

// All that a product and its backward pass need. Expert e has the rows [ends[e - 1], ends[e]).
struct Grouped {
  Tensor weight;  // [experts, out, in], without autograd
  Tensor ends;    // int32, where the rows are
  std::int64_t rows_with_expert = 0;
  // Those of experts with rows: their first rows of [experts * out].
  std::vector<std::pair<std::int64_t, const Linear*>> layers;

  // LibTorch leaves rows without an expert as they were in memory.
  Tensor with_zeros(const Tensor& y) const {
    y.narrow(0, rows_with_expert, y.size(0) - rows_with_expert).zero_();
    return y;
  }
};

bool fits(const ExpertLayers& expert) {
  return !expert.order.defined() &&
         std::all_of(expert.side_by_side.begin(), expert.side_by_side.end(), [](const Linear* layer) {
           return !layer->bias.defined() && (layer->take_gradient || !layer->weight.requires_grad());
         });
}

std::optional<Grouped> grouped_of(const std::vector<ExpertLayers>& experts, const std::vector<std::int64_t>& ends,
                                  const Tensor& ends_there) {
  Grouped found;
  found.ends = ends_there;
  std::vector<Tensor> matrices;
  std::int64_t row = 0;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    if (!fits(experts[e])) return std::nullopt;
    const bool has_rows = ends[e] > found.rows_with_expert;
    found.rows_with_expert = ends[e];
    for (const Linear* layer : experts[e].side_by_side) {
      matrices.push_back(layer->weight.detach());
      if (has_rows) found.layers.emplace_back(row, layer);
      row += layer->weight.size(0);
    }
  }
  const std::int64_t alignment = 16 / matrices[0].element_size();
  const auto count = static_cast<std::int64_t>(experts.size());
  if (!are_stacked(matrices) || row % (count * alignment) != 0 || matrices[0].size(1) % alignment != 0)
    return std::nullopt;
  found.weight = stacked(matrices).view({count, row / count, matrices[0].size(1)});
  return found;
}

class GroupedMmBackward final : public torch::autograd::Node {
 public:
  GroupedMmBackward(Tensor rows, Grouped grouped) : rows_(std::move(rows)), grouped_(std::move(grouped)) {}

  variable_list apply(variable_list&& gradients) override {
    variable_list results(1);
    if (!gradients[0].defined()) return results;
    const at::NoGradGuard no_grad;
    const Tensor dy = gradients[0].contiguous();
    if (task_should_compute_output(0)) {
      results[0] = grouped_.with_zeros(at::_grouped_mm(dy, grouped_.weight, grouped_.ends));
    }
    hand_on(dy);
    return results;
  }

  void release_variables() override {
    rows_ = Tensor();
    grouped_ = {};
  }

  std::string name() const override { return "GroupedMmBackward"; }

 private:
  void hand_on(const Tensor& dy) const {
    const bool taken = std::any_of(grouped_.layers.begin(), grouped_.layers.end(),
                                   [](const auto& layer) { return static_cast<bool>(layer.second->take_gradient); });
    if (!taken) return;
    // [experts, out, in]; of an expert without rows it holds anything.
    const Tensor all = at::_grouped_mm(dy.t(), rows_, grouped_.ends).flatten(0, 1);
    for (const auto& [row, layer] : grouped_.layers) {
      if (!layer->take_gradient) continue;
      layer->take_gradient(all.narrow(0, row, layer->weight.size(0)));
      if (layer->gradient_taken) layer->gradient_taken();
    }
  }

  Tensor rows_;  // without autograd
  Grouped grouped_;
};

}  // namespace

bool has_grouped_mm(const Tensor& rows) {
  if (!rows.is_cuda() || rows.scalar_type() != torch::kBFloat16) return false;
  const int major = compute_capability(rows);
  return major == 9 || major == 10;
}

std::optional<Tensor> grouped_mm_linear(const Tensor& rows, const std::vector<ExpertLayers>& experts,
                                        const std::vector<std::int64_t>& ends, const Tensor& ends_there) {
  std::optional<Grouped> grouped = grouped_of(experts, ends, ends_there);
  if (!grouped) return std::nullopt;
  const Tensor x = rows.detach().contiguous();
  Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = grouped->with_zeros(at::_grouped_mm(x, grouped->weight.transpose(1, 2), ends_there));
  }
  const bool taken = std::any_of(grouped->layers.begin(), grouped->layers.end(),
                                 [](const auto& layer) { return static_cast<bool>(layer.second->take_gradient); });
  if (!at::GradMode::is_enabled() || !(rows.requires_grad() || taken)) return y;
  const auto node = c10::make_intrusive<GroupedMmBackward>(x, std::move(*grouped));
  node->set_next_edges(torch::autograd::collect_next_edges(rows));
  torch::autograd::set_history(y, node);
  return y;
}

}  // namespace roundtable
