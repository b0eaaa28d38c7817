// One pass over the rows each way, where LibTorch's operations make a copy of all rows for every step of the formula.
#include "model/forward/expert_rows.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/simd/bf16_bits.h"

namespace roundtable {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kTokensAtOnce = 16;
constexpr std::int64_t kColumnsAtOnce = 512;  // numbers of a row that are summed at a time

// Where the rows of a token are: [N * K], the inverse of `order`.
Tensor places_of(const Tensor& order) {
  return torch::zeros_like(order).scatter_(0, order, torch::arange(order.size(0), order.options()));
}

template <class T>
RT_SIMD_CLONES void add_scaled(const T* __restrict row, float weight, std::int64_t n, float* __restrict sum) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) sum[i] += rounded_to(weight * load(row[i]), T{});
}

template <class T>
RT_SIMD_CLONES void narrow_to(const float* __restrict from, std::int64_t n, T* __restrict to) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(from[i], to[i]);
}

// to = weight * from; returns the sum of from * row.
template <class T>
RT_SIMD_CLONES float scale_and_multiply(const T* __restrict from, const T* __restrict row, float weight, std::int64_t n,
                                        T* __restrict to) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) {
    const float x = load(from[i]);
    sum += x * load(row[i]);
    store(weight * x, to[i]);
  }
  return sum;
}

// y[n] = the sum over k of weights[n, k] * rows[places[n, k]]. Without `weights` they are 1.
template <class T>
void sum_rows(const Tensor& rows, const Tensor& weights, const Tensor& places, Tensor& y) {
  const std::int64_t tokens = y.size(0), width = y.size(1), chosen = places.numel() / std::max<std::int64_t>(1, tokens);
  const auto* from = static_cast<const T*>(rows.const_data_ptr());
  const auto* factor = weights.defined() ? static_cast<const T*>(weights.const_data_ptr()) : nullptr;
  const auto* place = places.const_data_ptr<std::int64_t>();
  auto* to = static_cast<T*>(y.data_ptr());
  at::parallel_for(0, tokens, kTokensAtOnce, [&](std::int64_t begin, std::int64_t end) {
    std::array<float, kColumnsAtOnce> sum;
    for (std::int64_t n = begin; n < end; ++n) {
      for (std::int64_t column = 0; column < width; column += kColumnsAtOnce) {
        const std::int64_t some = std::min(kColumnsAtOnce, width - column);
        std::fill_n(sum.begin(), some, 0.0f);
        for (std::int64_t k = n * chosen; k < (n + 1) * chosen; ++k) {
          add_scaled<T>(from + place[k] * width + column, factor ? load(factor[k]) : 1.0f, some, sum.data());
        }
        narrow_to<T>(sum.data(), some, to + n * width + column);
      }
    }
  });
}

template <class T>
void spread_gradient(const Tensor& dy, const Tensor& rows, const Tensor& weights, const Tensor& places, Tensor& drows,
                     Tensor& dweights) {
  const std::int64_t tokens = dy.size(0), width = dy.size(1), chosen = weights.size(1);
  const auto* from = static_cast<const T*>(dy.const_data_ptr());
  const auto* row = static_cast<const T*>(rows.const_data_ptr());
  const auto* factor = static_cast<const T*>(weights.const_data_ptr());
  const auto* place = places.const_data_ptr<std::int64_t>();
  auto* to = static_cast<T*>(drows.data_ptr());
  auto* dfactor = static_cast<T*>(dweights.data_ptr());
  at::parallel_for(0, tokens, kTokensAtOnce, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      for (std::int64_t k = n * chosen; k < (n + 1) * chosen; ++k) {
        const std::int64_t at = place[k] * width;
        store(scale_and_multiply<T>(from + n * width, row + at, load(factor[k]), width, to + at), dfactor[k]);
      }
    }
  });
}

void sum_rows_of(const Tensor& rows, const Tensor& weights, const Tensor& places, Tensor& y) {
  (rows.scalar_type() == torch::kBFloat16 ? sum_rows<std::uint16_t> : sum_rows<float>)(rows, weights, places, y);
}

struct RowsOfTokens : public torch::autograd::Function<RowsOfTokens> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& order, std::int64_t chosen) {
    context->save_for_backward({order});
    context->saved_data["tokens"] = x.size(0);
    return x.index_select(0, order.floor_divide(chosen));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Tensor order = context->get_saved_variables()[0];
    const Tensor drows = gradients[0].contiguous();
    const std::int64_t tokens = context->saved_data["tokens"].toInt();
    Tensor dx = torch::empty({tokens, drows.size(1)}, drows.options());
    sum_rows_of(drows, {}, places_of(order), dx);
    return {dx, Tensor(), Tensor()};
  }
};

struct TokensOfRows : public torch::autograd::Function<TokensOfRows> {
  static Tensor forward(AutogradContext* context, const Tensor& rows_in, const Tensor& weights_in, const Tensor& order) {
    const Tensor rows = rows_in.contiguous(), weights = weights_in.contiguous(), places = places_of(order);
    Tensor y = torch::empty({weights.size(0), rows.size(1)}, rows.options());
    sum_rows_of(rows, weights, places, y);
    context->save_for_backward({rows, weights, places});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    Tensor drows = torch::empty_like(saved[0]), dweights = torch::empty_like(saved[1]);
    const bool bf16 = drows.scalar_type() == torch::kBFloat16;
    (bf16 ? spread_gradient<std::uint16_t> : spread_gradient<float>)(gradients[0].contiguous(), saved[0], saved[1],
                                                                     saved[2], drows, dweights);
    return {drows, dweights, Tensor()};
  }
};

// The kernels know fp32 and bf16.
bool has_kernel(const Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == torch::kFloat32 || x.scalar_type() == torch::kBFloat16);
}

}  // namespace

Tensor rows_of_tokens(const Tensor& x, const Tensor& order, std::int64_t chosen) {
  RT_CHECK(x.dim() == 2 && order.dim() == 1 && order.size(0) == x.size(0) * chosen);
  if (!has_kernel(x)) return x.index_select(0, order.floor_divide(chosen));
  return RowsOfTokens::apply(x, order, chosen);
}

Tensor tokens_of_rows(const Tensor& rows, const Tensor& weights, const Tensor& order) {
  RT_CHECK(rows.dim() == 2 && weights.dim() == 2 && weights.numel() == rows.size(0) && order.size(0) == rows.size(0));
  if (has_kernel(rows) && weights.scalar_type() == rows.scalar_type()) return TokensOfRows::apply(rows, weights, order);
  const Tensor weighted = rows.index_select(0, places_of(order)) * weights.reshape({-1, 1});
  return weighted.view({weights.size(0), weights.size(1), rows.size(1)}).sum(1);
}

}  // namespace roundtable
