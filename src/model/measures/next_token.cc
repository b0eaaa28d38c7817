// On the host: three passes over the logits of a position, which stay in the cache, and nothing is written.
#include "model/measures/next_token.h"

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "base/error.h"
#include "base/simd/bf16_bits.h"
#include "base/simd/exp_inline.h"

namespace roundtable {
namespace {

constexpr std::int64_t kPiece = 512;  // so many terms are summed in fp32
constexpr float kLeastLog = -87.0f;    // exp_of() knows no smaller one

template <class T>
RT_SIMD_CLONES float largest(const T* __restrict x, std::int64_t n) {
  float most = load(x[0]);
#pragma omp simd reduction(max : most)
  for (std::int64_t i = 0; i < n; ++i) most = load(x[i]) > most ? load(x[i]) : most;
  return most;
}

template <class T>
RT_SIMD_CLONES float sum_of_exp(const T* __restrict x, float most, std::int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += exp_of(load(x[i]) - most);
  return sum;
}

// Of exp(y - most_y) ((y - most_y) - (x - most_x)).
template <class T>
RT_SIMD_CLONES float sum_of_divergence(const T* __restrict y, const T* __restrict x, float most_y, float most_x,
                                       std::int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) {
    const float below = load(y[i]) - most_y;
    const float term = exp_of(below) * (below - (load(x[i]) - most_x));
    sum += below < kLeastLog ? 0.0f : term;
  }
  return sum;
}

// Calls sum(first, count) for pieces of [0, n) and adds in fp64.
template <class Sum>
double sum_of_pieces(std::int64_t n, const Sum& sum) {
  double all = 0;
  for (std::int64_t first = 0; first < n; first += kPiece) all += sum(first, std::min(kPiece, n - first));
  return all;
}

struct Distribution {
  float most = 0;
  double sum = 0;        // of exp(x - most)
  std::int64_t top = 0;  // the most likely token

  double loss(float logit) const { return std::log(sum) - static_cast<double>(logit - most); }
};

// KL(p || q) of sum p ((y - most) - (x - most)), where `weighted` is that sum times p.sum. Logarithms of p and q as such
// would be rounded at their own size, which is thousands of times that of a small divergence.
double divergence_of(double weighted, const Distribution& p, const Distribution& q) {
  return weighted / p.sum - std::log(p.sum) + std::log(q.sum);
}

template <class T>
Distribution distribution_of(const T* x, std::int64_t vocab) {
  const float most = largest(x, vocab);
  const double sum = sum_of_pieces(
      vocab, [&](std::int64_t first, std::int64_t n) { return sum_of_exp(x + first, most, n); });
  const T* top = std::find_if(x, x + vocab, [&](T value) { return load(value) == most; });
  return {most, sum, top - x};
}

struct OfPosition {
  double loss = 0, float_loss = 0, divergence = 0;
  bool same_top = false;
};

// `y` is null where there is no float model.
template <class T>
OfPosition measure_position(const T* x, const T* y, std::int64_t vocab, std::int64_t next) {
  const Distribution q = distribution_of(x, vocab);
  OfPosition found{.loss = q.loss(load(x[next]))};
  if (y == nullptr) return found;
  const Distribution p = distribution_of(y, vocab);
  found.float_loss = p.loss(load(y[next]));
  found.same_top = p.top == q.top;
  const double weighted = sum_of_pieces(vocab, [&](std::int64_t first, std::int64_t n) {
    return sum_of_divergence(y + first, x + first, p.most, q.most, n);
  });
  found.divergence = divergence_of(weighted, p, q);
  return found;
}

template <class T>
TokenSums compare_on_host(const torch::Tensor& logits, const torch::Tensor& float_logits, const torch::Tensor& next,
                          std::vector<float>& divergences) {
  const std::int64_t positions = logits.size(0), vocab = logits.size(1);
  const auto* x = static_cast<const T*>(logits.const_data_ptr());
  const auto* y = float_logits.defined() ? static_cast<const T*>(float_logits.const_data_ptr()) : nullptr;
  const auto* ids = next.const_data_ptr<std::int64_t>();
  std::vector<OfPosition> found(static_cast<std::size_t>(positions));
  at::parallel_for(0, positions, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      found[static_cast<std::size_t>(i)] =
          measure_position(x + i * vocab, y == nullptr ? nullptr : y + i * vocab, vocab, ids[i]);
    }
  });
  TokenSums sums;
  for (const OfPosition& one : found) {
    sums.loss += one.loss;
    sums.float_loss += one.float_loss;
    sums.same_top += one.same_top ? 1 : 0;
    if (y != nullptr) divergences.push_back(static_cast<float>(one.divergence));
  }
  return sums;
}

}  // namespace

namespace detail {

TokenSums compare_by_operators(const torch::Tensor& logits, const torch::Tensor& float_logits,
                               const torch::Tensor& next, std::vector<float>& divergences) {
  const auto below_most = [](const torch::Tensor& x) {
    const torch::Tensor wide = x.to(torch::kFloat32);
    return wide - wide.amax(-1, /*keepdim=*/true);
  };
  const auto sum = [](const torch::Tensor& x) { return x.sum(-1, /*keepdim=*/false, torch::kFloat64); };
  const auto loss_of = [&](const torch::Tensor& below, const torch::Tensor& log_sum) {
    return (log_sum - below.gather(1, next.unsqueeze(1)).squeeze(1)).sum().item<double>();
  };
  const torch::Tensor x = below_most(logits), log_sum = sum(x.exp()).log();
  TokenSums sums{.loss = loss_of(x, log_sum)};
  if (!float_logits.defined()) return sums;
  const torch::Tensor y = below_most(float_logits), weights = y.exp(), sum_of_weights = sum(weights);
  sums.float_loss = loss_of(y, sum_of_weights.log());
  sums.same_top = (logits.argmax(-1) == float_logits.argmax(-1)).sum().item<std::int64_t>();
  const torch::Tensor weighted = sum((y - x).mul_(weights).masked_fill_(y < kLeastLog, 0));  // as divergence_of() says
  const torch::Tensor found =
      (weighted / sum_of_weights - sum_of_weights.log() + log_sum).to(torch::kFloat32).to(torch::kCPU);
  divergences.insert(divergences.end(), found.const_data_ptr<float>(), found.const_data_ptr<float>() + found.numel());
  return sums;
}

}  // namespace detail

TokenSums compare_tokens(const torch::Tensor& logits, const torch::Tensor& float_logits, const torch::Tensor& next,
                         std::vector<float>& divergences) {
  RT_CHECK(logits.dim() == 2 && logits.size(0) == next.size(0));
  RT_CHECK(!float_logits.defined() || float_logits.sizes() == logits.sizes());
  const torch::ScalarType dtype = logits.scalar_type();
  const bool known = dtype == torch::kFloat32 || dtype == torch::kBFloat16;
  const bool alike = !float_logits.defined() || float_logits.scalar_type() == dtype;
  if (!logits.is_cpu() || !known || !alike) return detail::compare_by_operators(logits, float_logits, next, divergences);
  const auto compare = dtype == torch::kFloat32 ? compare_on_host<float> : compare_on_host<std::uint16_t>;
  return compare(logits.contiguous(), float_logits.defined() ? float_logits.contiguous() : torch::Tensor(),
                 next.contiguous(), divergences);
}

TokenSums measure_tokens(const torch::Tensor& logits, const torch::Tensor& next) {
  std::vector<float> none;
  return compare_tokens(logits, {}, next, none);
}

}  // namespace roundtable
