// rt::dispatch, rt::expert_linear and rt::combine: tokens sorted by expert, products per expert, and the way back.
#include <torch/types.h>
#include <torch/utils.h>

#include <vector>

#include "graph/operators/library.h"
#include "model/forward/expert_rows.h"

namespace roundtable {

using torch::Tensor;

std::tuple<Tensor, Tensor, Tensor> dispatch_tokens(const Tensor& x, const Tensor& index, std::int64_t experts) {
  TORCH_CHECK(x.dim() == 2 && index.dim() == 2 && x.size(0) == index.size(0) && index.size(1) > 0 && experts > 0,
              "x must be [N, H] and index [N, K]");
  const auto [ids, order] = index.reshape(-1).sort(/*stable=*/true, 0, /*descending=*/false);
  const Tensor rows = rows_of_tokens(x, order, index.size(1));
  const Tensor all = torch::arange(experts, ids.options());
  return {rows, torch::searchsorted(ids, all, /*out_int32=*/true, /*right=*/true), order};
}

std::vector<std::int64_t> host_ends(const Tensor& ends, std::int64_t experts, std::int64_t rows) {
  TORCH_CHECK(ends.dim() == 1 && ends.size(0) == experts, "ends must have one element per expert");
  const Tensor host = ends.to(torch::kCPU, torch::kInt64).contiguous();
  const auto* data = host.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> all(data, data + experts);
  std::int64_t last = 0;
  for (const std::int64_t end : all) {
    TORCH_CHECK(end >= last && end <= rows, "ends must rise, up to the number of rows");
    last = end;
  }
  return all;
}

Tensor expert_linear(const Tensor& rows, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& ends,
                     bool transposed) {
  TORCH_CHECK(rows.dim() == 2 && weight.dim() == 3, "rows must be [R, in] and weight [E, out, in]");
  const Tensor out_in = transposed ? weight.transpose(1, 2) : weight;
  std::vector<Tensor> parts;
  std::int64_t begin = 0;
  std::int64_t expert = 0;
  for (const std::int64_t end : host_ends(ends, weight.size(0), rows.size(0))) {
    if (end > begin) {
      const auto own_bias = bias ? std::optional<Tensor>((*bias)[expert]) : std::nullopt;
      parts.push_back(torch::linear(rows.narrow(0, begin, end - begin), out_in[expert], own_bias));
    }
    begin = end;
    ++expert;
  }
  if (begin < rows.size(0) || parts.empty()) {
    parts.push_back(torch::zeros({rows.size(0) - begin, out_in.size(1)}, rows.options()));
  }
  return torch::cat(parts);
}

Tensor combine_tokens(const Tensor& rows, const Tensor& weights, const Tensor& order) {
  TORCH_CHECK(rows.dim() == 2 && weights.dim() == 2 && order.dim() == 1 && order.size(0) == rows.size(0) &&
                  weights.numel() == rows.size(0),
              "rows must be [N * K, H], weights [N, K] and order [N * K]");
  return tokens_of_rows(rows, weights, order);
}

std::tuple<Tensor, Tensor> rows_to_owners(const Tensor& rows, const Tensor& ends) { return {rows, ends}; }

Tensor rows_from_owners(const Tensor& rows, const Tensor&) { return rows; }

}  // namespace roundtable
