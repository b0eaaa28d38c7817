// The scan on a CPU: one channel of one sample at a time, its N states in registers or the first cache.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>

#include "base/simd/exp_inline.h"
#include "base/simd/simd.h"
#include "model/scan/selective_scan.h"

namespace roundtable {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Channels of a sample are split into this many parts for the backward pass, each with its own sums of the gradients of
// b and c. The number is fixed, so that results do not depend on the number of threads.
constexpr std::int64_t kParts = 8;

inline float power(float x) { return exp_of(x); }
inline double power(double x) { return std::exp(x); }

// One channel. Rows of b, c, decay and states are [S, N].
template <class T>
RT_SIMD_CLONES void forward_channel(const T* __restrict u, const T* __restrict delta, const T* __restrict a,
                                    const T* __restrict b, const T* __restrict c, std::int64_t seqlen, std::int64_t n,
                                    T* __restrict h, T* __restrict y) {
  for (std::int64_t i = 0; i < n; ++i) h[i] = 0;
  for (std::int64_t t = 0; t < seqlen; ++t) {
    const T step = delta[t];
    const T in = step * u[t];
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < n; ++i) {
      const T next = power(step * a[i]) * h[i] + in * b[t * n + i];
      h[i] = next;
      sum += next * c[t * n + i];
    }
    y[t] = sum;
  }
}

// The states again, and their decays. states has a row of zeros before the first token.
template <class T>
RT_SIMD_CLONES void keep_states(const T* __restrict u, const T* __restrict delta, const T* __restrict a,
                                const T* __restrict b, std::int64_t seqlen, std::int64_t n, T* __restrict states,
                                T* __restrict decay) {
  for (std::int64_t i = 0; i < n; ++i) states[i] = 0;
  for (std::int64_t t = 0; t < seqlen; ++t) {
    const T step = delta[t];
    const T in = step * u[t];
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      const T factor = power(step * a[i]);
      decay[t * n + i] = factor;
      states[(t + 1) * n + i] = factor * states[t * n + i] + in * b[t * n + i];
    }
  }
}

// With g[t] = dL/dh[t] = dy[t] c[t] + decay[t + 1] g[t + 1], of which `h` holds the second term.
template <class T>
RT_SIMD_CLONES void backward_channel(const T* __restrict u, const T* __restrict delta, const T* __restrict a,
                                     const T* __restrict b, const T* __restrict c, const T* __restrict states,
                                     const T* __restrict decay, const T* __restrict dy, std::int64_t seqlen,
                                     std::int64_t n, T* __restrict h, T* __restrict du, T* __restrict ddelta,
                                     T* __restrict da, T* __restrict db, T* __restrict dc) {
  for (std::int64_t i = 0; i < n; ++i) h[i] = da[i] = 0;
  for (std::int64_t t = seqlen; t-- > 0;) {
    const T step = delta[t];
    const T in = step * u[t];
    const T d = dy[t];
    T of_in = 0, of_step = 0;
#pragma omp simd reduction(+ : of_in, of_step)
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t at = t * n + i;
      const T g = h[i] + d * c[at];
      const T through = g * decay[at];
      const T of_exponent = through * states[at];
      dc[at] += d * states[at + n];
      db[at] += g * in;
      of_in += g * b[at];
      of_step += of_exponent * a[i];
      da[i] += of_exponent * step;
      h[i] = through;
    }
    du[t] = of_in * step;
    ddelta[t] = of_step + of_in * u[t];
  }
}

template <class T>
Tensor forward_all(const ScanArguments& x) {
  Tensor y = torch::empty_like(x.u);
  const std::int64_t s = x.seqlen(), n = x.states();
  const T *u = x.u.const_data_ptr<T>(), *delta = x.delta.const_data_ptr<T>(), *a = x.a.const_data_ptr<T>();
  const T *b = x.b.const_data_ptr<T>(), *c = x.c.const_data_ptr<T>();
  T* out = y.data_ptr<T>();
  at::parallel_for(0, x.samples() * x.channels(), 1, [&](std::int64_t begin, std::int64_t end) {
    const Tensor h = torch::empty({n}, x.u.options());
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t sample = row / x.channels(), channel = row % x.channels();
      forward_channel<T>(u + row * s, delta + row * s, a + channel * n, b + sample * s * n, c + sample * s * n, s, n,
                         h.data_ptr<T>(), out + row * s);
    }
  });
  return y;
}

template <class T>
ScanArguments backward_all(const ScanArguments& x, const Tensor& upstream) {
  const std::int64_t s = x.seqlen(), n = x.states(), channels = x.channels();
  const std::int64_t parts = std::min(kParts, channels);
  ScanArguments d = x;
  d.u = torch::empty_like(x.u);
  d.delta = torch::empty_like(x.delta);
  const Tensor da = torch::empty({x.samples(), channels, n}, x.a.options());
  const Tensor db = torch::zeros({x.samples(), parts, s, n}, x.b.options());
  const Tensor dc = torch::zeros_like(db);
  const T *u = x.u.const_data_ptr<T>(), *delta = x.delta.const_data_ptr<T>(), *a = x.a.const_data_ptr<T>();
  const T *b = x.b.const_data_ptr<T>(), *c = x.c.const_data_ptr<T>(), *dy = upstream.const_data_ptr<T>();
  T *du = d.u.data_ptr<T>(), *ddelta = d.delta.data_ptr<T>();
  T *pa = da.data_ptr<T>(), *pb = db.data_ptr<T>(), *pc = dc.data_ptr<T>();
  at::parallel_for(0, x.samples() * parts, 1, [&](std::int64_t begin, std::int64_t end) {
    const Tensor scratch = torch::empty({2 * (s + 1), n}, x.u.options());
    T* states = scratch.data_ptr<T>();
    T *decay = states + (s + 1) * n, *h = decay + s * n;
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t sample = task / parts, part = task % parts, of_sample = sample * s * n;
      for (std::int64_t k = channels * part / parts; k < channels * (part + 1) / parts; ++k) {
        const std::int64_t row = sample * channels + k;
        keep_states<T>(u + row * s, delta + row * s, a + k * n, b + of_sample, s, n, states, decay);
        backward_channel<T>(u + row * s, delta + row * s, a + k * n, b + of_sample, c + of_sample, states, decay,
                            dy + row * s, s, n, h, du + row * s, ddelta + row * s, pa + row * n, pb + task * s * n,
                            pc + task * s * n);
      }
    }
  });
  d.a = da.sum(0);
  d.b = db.sum(1);
  d.c = dc.sum(1);
  return d;
}

struct ScanByChannel : public torch::autograd::Function<ScanByChannel> {
  static Tensor forward(AutogradContext* context, const Tensor& u, const Tensor& delta, const Tensor& a,
                        const Tensor& b, const Tensor& c) {
    context->save_for_backward({u, delta, a, b, c});
    const ScanArguments x({u, delta, a, b, c});
    return (x.u.scalar_type() == torch::kFloat64 ? forward_all<double> : forward_all<float>)(x).to(u.scalar_type());
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const variable_list given = context->get_saved_variables();
    const ScanArguments x(given);
    const Tensor upstream = grad_outputs[0].to(x.u.scalar_type()).contiguous();
    const auto backward_of = x.u.scalar_type() == torch::kFloat64 ? backward_all<double> : backward_all<float>;
    return scan_gradients(backward_of(x, upstream), given);
  }
};

}  // namespace

Tensor scan_by_channel(const Tensor& u, const Tensor& delta, const Tensor& a, const Tensor& b, const Tensor& c) {
  return ScanByChannel::apply(u, delta, a, b, c);
}

}  // namespace roundtable
