// The fused operators: our kernels where they serve, the formula elsewhere.
#include <torch/types.h>
#include <torch/utils.h>

#include <utility>

#include "graph/operators/library.h"
#include "model/forward/activation.h"
#include "model/forward/norm.h"
#include "model/forward/rope.h"

namespace roundtable {
namespace {

using torch::Tensor;

// The kernels know fp32 and bf16.
bool has_kernel(const Tensor& x) { return x.scalar_type() == torch::kFloat32 || x.scalar_type() == torch::kBFloat16; }

bool serves_gate(const Tensor& gate, const Tensor& up) {
  return has_kernel(gate) && gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type();
}

bool serves_halves(const Tensor& joined) {
  return has_kernel(joined) && joined.dim() > 0 && joined.size(-1) % 2 == 0;
}

std::pair<Tensor, Tensor> halves_of(const Tensor& joined) {
  const auto halves = joined.chunk(2, -1);
  TORCH_CHECK(halves.size() == 2, "there must be a gate and a second half");
  return {halves[0], halves[1]};
}

// The table's rows [seqlen, rotary_dim] if the dimensions before are of size 1, but for that of the positions at
// `position`.
bool is_table(const Tensor& table, const Tensor& x, std::int64_t position) {
  if (table.size(-1) != x.size(-1) || table.numel() != x.size(position) * x.size(-1)) return false;
  const std::int64_t from_end = 4 - position;
  return table.dim() >= from_end && table.size(-from_end) == x.size(position);
}

}  // namespace

Tensor fused_rms_norm(const Tensor& x, const Tensor& weight, double eps, bool plus_one,
                      std::optional<torch::ScalarType> dtype) {
  const torch::ScalarType to = dtype.value_or(x.scalar_type());
  const bool plain = weight.dim() == 1 && weight.size(0) == x.size(-1) && x.numel() > 0;
  if (has_kernel(x) && plain && weight.scalar_type() == x.scalar_type() && to == x.scalar_type()) {
    return rms_norm(x, weight, eps, plus_one ? RmsWeight::kPlusOne : RmsWeight::kPlain);
  }
  const Tensor wide = x.to(torch::kFloat32);
  const Tensor quotient = wide * torch::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  if (plus_one) return (quotient * (weight.to(torch::kFloat32) + 1)).to(to);
  return weight * quotient.to(to);
}

Tensor fused_rope(const Tensor& x, const Tensor& cos, const Tensor& sin, std::int64_t half, std::int64_t dim) {
  const bool last = dim == -1 || dim == x.dim() - 1;
  const bool alike = x.dim() == 4 && last && 2 * half == x.size(3) && x.numel() > 0 && cos.sizes() == sin.sizes() &&
                     cos.scalar_type() == x.scalar_type() && sin.scalar_type() == x.scalar_type() && has_kernel(x);
  if (alike && (is_table(cos, x, 2) || is_table(cos, x, 1))) {
    const bool heads_first = is_table(cos, x, 2);  // [batch, heads, seqlen, head_dim]
    const Tensor by_position = heads_first ? x.transpose(1, 2) : x;
    const auto rows = [&](const Tensor& table) { return table.reshape({by_position.size(1), x.size(3)}).contiguous(); };
    const Tensor y = apply_rope(by_position, {rows(cos), rows(sin)});
    return heads_first ? y.transpose(1, 2) : y;
  }
  const Tensor turned = torch::cat({x.narrow(dim, half, x.size(dim) - half).neg(), x.narrow(dim, 0, half)}, dim);
  return x * cos + turned * sin;
}

Tensor fused_swiglu(const Tensor& gate, const Tensor& up) {
  return serves_gate(gate, up) ? swiglu(gate, up) : torch::silu(gate) * up;
}

Tensor fused_gelu(const Tensor& x) { return has_kernel(x) ? gelu_tanh(x) : torch::gelu(x, "tanh"); }

Tensor fused_geglu(const Tensor& gate, const Tensor& up) {
  return serves_gate(gate, up) ? geglu(gate, up) : torch::gelu(gate, "tanh") * up;
}

Tensor fused_swiglu_of_halves(const Tensor& joined) {
  if (serves_halves(joined)) return swiglu_of_halves(joined);
  const auto [gate, up] = halves_of(joined);
  return fused_swiglu(gate, up);
}

Tensor fused_geglu_of_halves(const Tensor& joined) {
  if (serves_halves(joined)) return geglu_of_halves(joined);
  const auto [gate, up] = halves_of(joined);
  return fused_geglu(gate, up);
}

}  // namespace roundtable
