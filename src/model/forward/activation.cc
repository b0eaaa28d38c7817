// gelu(x), silu(gate) * up, gelu(gate) * up and their gradients, in one pass each.
#include "model/forward/activation.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/simd/bf16_bits.h"
#include "base/simd/exp_inline.h"

namespace roundtable {
namespace {

enum class Activation { kSilu, kGeluTanh };

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kGrain = 16384;

inline float sigmoid(float x) { return 1.0f / (1.0f + exp_of(-x)); }

template <class T>
RT_SIMD_CLONES void forward_range(const T* __restrict gate, const T* __restrict up, std::int64_t n, T* __restrict y) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = load(gate[i]);
    store(rounded_to(g * sigmoid(g), T{}) * load(up[i]), y[i]);
  }
}

// d silu(g) / dg = s * (1 + g * (1 - s)), s = sigmoid(g).
template <class T>
RT_SIMD_CLONES void backward_range(const T* __restrict gate, const T* __restrict up, const T* __restrict dy,
                                   std::int64_t n, T* __restrict dgate, T* __restrict dup) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = load(gate[i]);
    const float s = sigmoid(g);
    const float d = load(dy[i]);
    store(d * rounded_to(g * s, T{}), dup[i]);
    store(d * load(up[i]) * s * (1.0f + g * (1.0f - s)), dgate[i]);
  }
}

// gelu(g) = g / 2 * (1 + tanh(u)) = g * sigmoid(2 u), u = sqrt(2 / pi) * (g + 0.044715 g^3): the "tanh" form of
// torch.nn.functional.gelu, arXiv 1606.08415.
constexpr float kTwiceU = 1.5957691216f;  // 2 sqrt(2 / pi)
constexpr float kCubeU = 0.044715f;

inline float gelu_gate(float g) { return sigmoid(kTwiceU * (g + kCubeU * g * g * g)); }

// d gelu(g) / dg = s * (1 + g * (1 - s) * 2 du/dg), s = sigmoid(2 u); here times `upstream`.
inline float times_gelu_slope(float upstream, float g, float s) {
  return upstream * s * (1.0f + g * (1.0f - s) * kTwiceU * (1.0f + 3.0f * kCubeU * g * g));
}

template <class T>
RT_SIMD_CLONES void gelu_forward_range(const T* __restrict gate, const T* __restrict up, std::int64_t n,
                                       T* __restrict y) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = load(gate[i]);
    store(rounded_to(g * gelu_gate(g), T{}) * load(up[i]), y[i]);
  }
}

template <class T>
RT_SIMD_CLONES void gelu_backward_range(const T* __restrict gate, const T* __restrict up, const T* __restrict dy,
                                        std::int64_t n, T* __restrict dgate, T* __restrict dup) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = load(gate[i]);
    const float s = gelu_gate(g);
    const float d = load(dy[i]);
    store(d * rounded_to(g * s, T{}), dup[i]);
    store(times_gelu_slope(d * load(up[i]), g, s), dgate[i]);
  }
}

template <class T>
RT_SIMD_CLONES void lone_gelu_forward_range(const T* __restrict x, std::int64_t n, T* __restrict y) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = load(x[i]);
    store(g * gelu_gate(g), y[i]);
  }
}

template <class T>
RT_SIMD_CLONES void lone_gelu_backward_range(const T* __restrict x, const T* __restrict dy, std::int64_t n,
                                             T* __restrict dx) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = load(x[i]);
    const float s = gelu_gate(g);
    store(times_gelu_slope(load(dy[i]), g, s), dx[i]);
  }
}

template <class T>
void lone_gelu_forward(const torch::Tensor& x, torch::Tensor& y) {
  const auto* from = static_cast<const T*>(x.const_data_ptr());
  auto* to = static_cast<T*>(y.data_ptr());
  at::parallel_for(0, x.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    lone_gelu_forward_range<T>(from + begin, end - begin, to + begin);
  });
}

template <class T>
void lone_gelu_backward(const torch::Tensor& x, const torch::Tensor& dy, torch::Tensor& dx) {
  const auto* from = static_cast<const T*>(x.const_data_ptr());
  const auto* upstream = static_cast<const T*>(dy.const_data_ptr());
  auto* to = static_cast<T*>(dx.data_ptr());
  at::parallel_for(0, x.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    lone_gelu_backward_range<T>(from + begin, upstream + begin, end - begin, to + begin);
  });
}

// Rows of `width` numbers that begin `stride` numbers after each other.
template <class T>
struct Rows {
  T* data;
  std::int64_t width;
  std::int64_t stride;

  T* at(std::int64_t number) const { return data + number / width * stride + number % width; }
};

template <class T, class Tensor>
Rows<T> whole(Tensor& tensor) {
  const std::int64_t n = std::max<std::int64_t>(1, tensor.numel());
  if constexpr (std::is_const_v<T>) return {static_cast<T*>(tensor.const_data_ptr()), n, n};
  if constexpr (!std::is_const_v<T>) return {static_cast<T*>(tensor.data_ptr()), n, n};
}

// The left or the right half of each row of a contiguous tensor.
template <class T, class Tensor>
Rows<T> half(Tensor& joined, bool right) {
  const std::int64_t width = joined.size(-1) / 2;
  T* const data = whole<T>(joined).data;
  return {right ? data + width : data, width, 2 * width};
}

// Calls body(first number, how many) for numbers that lie one behind the other in the rows of `width`, in parallel.
template <class Body>
void for_each_run(std::int64_t numbers, std::int64_t width, const Body& body) {
  at::parallel_for(0, numbers, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end;) {
      const std::int64_t n = std::min(end - i, width - i % width);
      body(i, n);
      i += n;
    }
  });
}

template <class T, Activation kGate>
void forward_all(Rows<const T> gate, Rows<const T> up, torch::Tensor& y) {
  auto* out = static_cast<T*>(y.data_ptr());
  for_each_run(y.numel(), gate.width, [&](std::int64_t i, std::int64_t n) {
    const auto range = kGate == Activation::kSilu ? forward_range<T> : gelu_forward_range<T>;
    range(gate.at(i), up.at(i), n, out + i);
  });
}

template <class T, Activation kGate>
void backward_all(Rows<const T> gate, Rows<const T> up, const torch::Tensor& dy, Rows<T> dgate, Rows<T> dup) {
  const auto* d = static_cast<const T*>(dy.const_data_ptr());
  for_each_run(dy.numel(), gate.width, [&](std::int64_t i, std::int64_t n) {
    const auto range = kGate == Activation::kSilu ? backward_range<T> : gelu_backward_range<T>;
    range(gate.at(i), up.at(i), d + i, n, dgate.at(i), dup.at(i));
  });
}

// Calls body(a number of the type that holds the tensor's numbers).
template <class Body>
void with_bits(const torch::Tensor& tensor, const Body& body) {
  if (tensor.scalar_type() == torch::kBFloat16) {
    body(std::uint16_t{});
  } else {
    body(float{});
  }
}

template <Activation kGate>
struct FusedGate : public torch::autograd::Function<FusedGate<kGate>> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& gate_in, const torch::Tensor& up_in) {
    const torch::Tensor gate = gate_in.contiguous();
    const torch::Tensor up = up_in.contiguous();
    torch::Tensor y = torch::empty_like(gate);
    with_bits(y, [&](auto bits) {
      using T = decltype(bits);
      forward_all<T, kGate>(whole<const T>(gate), whole<const T>(up), y);
    });
    context->save_for_backward({gate, up});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const auto saved = context->get_saved_variables();
    torch::Tensor dgate = torch::empty_like(saved[0]);
    torch::Tensor dup = torch::empty_like(saved[1]);
    with_bits(dgate, [&](auto bits) {
      using T = decltype(bits);
      backward_all<T, kGate>(whole<const T>(saved[0]), whole<const T>(saved[1]), grad_outputs[0].contiguous(),
                             whole<T>(dgate), whole<T>(dup));
    });
    return {dgate, dup};
  }
};

// Where gate and up are one tensor, neither they nor their gradients are copied.
template <Activation kGate>
struct JoinedGate : public torch::autograd::Function<JoinedGate<kGate>> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& joined_in) {
    const torch::Tensor joined = joined_in.contiguous();
    std::vector<std::int64_t> shape = joined.sizes().vec();
    shape.back() /= 2;
    torch::Tensor y = torch::empty(shape, joined.options());
    with_bits(y, [&](auto bits) {
      using T = decltype(bits);
      forward_all<T, kGate>(half<const T>(joined, false), half<const T>(joined, true), y);
    });
    context->save_for_backward({joined});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const torch::Tensor joined = context->get_saved_variables()[0];
    torch::Tensor gradient = torch::empty_like(joined);
    with_bits(joined, [&](auto bits) {
      using T = decltype(bits);
      backward_all<T, kGate>(half<const T>(joined, false), half<const T>(joined, true), grad_outputs[0].contiguous(),
                             half<T>(gradient, false), half<T>(gradient, true));
    });
    return {gradient};
  }
};

struct LoneGelu : public torch::autograd::Function<LoneGelu> {
  static torch::Tensor forward(AutogradContext* context, const torch::Tensor& input) {
    const torch::Tensor x = input.contiguous();
    torch::Tensor y = torch::empty_like(x);
    (x.scalar_type() == torch::kBFloat16 ? lone_gelu_forward<std::uint16_t> : lone_gelu_forward<float>)(x, y);
    context->save_for_backward({x});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const torch::Tensor x = context->get_saved_variables()[0];
    torch::Tensor dx = torch::empty_like(x);
    const bool bf16 = x.scalar_type() == torch::kBFloat16;
    (bf16 ? lone_gelu_backward<std::uint16_t> : lone_gelu_backward<float>)(x, grad_outputs[0].contiguous(), dx);
    return {dx};
  }
};

}  // namespace

torch::Tensor gelu_tanh(const torch::Tensor& x) {
  if (!x.is_cpu()) return torch::gelu(x, "tanh");
  return LoneGelu::apply(x);
}

torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up) {
  RT_CHECK(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type());
  if (!gate.is_cpu()) return torch::silu(gate) * up;
  return FusedGate<Activation::kSilu>::apply(gate, up);
}

torch::Tensor geglu(const torch::Tensor& gate, const torch::Tensor& up) {
  RT_CHECK(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type());
  if (!gate.is_cpu()) return torch::gelu(gate, "tanh") * up;
  return FusedGate<Activation::kGeluTanh>::apply(gate, up);
}

torch::Tensor swiglu_of_halves(const torch::Tensor& joined) {
  RT_CHECK(joined.dim() > 0 && joined.size(-1) % 2 == 0);
  if (joined.is_cpu()) return JoinedGate<Activation::kSilu>::apply(joined);
  const auto halves = joined.chunk(2, -1);
  return swiglu(halves[0], halves[1]);
}

torch::Tensor geglu_of_halves(const torch::Tensor& joined) {
  RT_CHECK(joined.dim() > 0 && joined.size(-1) % 2 == 0);
  if (joined.is_cpu()) return JoinedGate<Activation::kGeluTanh>::apply(joined);
  const auto halves = joined.chunk(2, -1);
  return geglu(halves[0], halves[1]);
}

}  // namespace roundtable
