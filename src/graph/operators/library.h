// Our operators, known to LibTorch's dispatcher: rt:: as graphs name them (../FORMAT.md has their formulas), and
// fused::, which only the passes of fuse/ put into a graph.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

namespace roundtable {

// Makes the operators known, once. Whoever looks an operator up calls it.
void register_operators();

// All are differentiable in their tensors of real numbers, and throw c10::Error for shapes that do not fit.

torch::Tensor graph_attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                              const std::optional<torch::Tensor>& mask, const std::optional<torch::Tensor>& sinks,
                              double scale, bool causal, std::int64_t window, double softcap);

std::tuple<torch::Tensor, torch::Tensor, torch::Tensor> dispatch_tokens(const torch::Tensor& x,
                                                                        const torch::Tensor& index,
                                                                        std::int64_t experts);
torch::Tensor expert_linear(const torch::Tensor& rows, const torch::Tensor& weight,
                            const std::optional<torch::Tensor>& bias, const torch::Tensor& ends, bool transposed);
torch::Tensor combine_tokens(const torch::Tensor& rows, const torch::Tensor& weights, const torch::Tensor& order);

torch::Tensor graph_selective_scan(const torch::Tensor& u, const torch::Tensor& delta, const torch::Tensor& a,
                                   const torch::Tensor& b, const torch::Tensor& c);

// The ends of the experts' rows on the host, checked to rise from 0 to `rows` at most.
std::vector<std::int64_t> host_ends(const torch::Tensor& ends, std::int64_t experts, std::int64_t rows);

// The fused operators take whatever the nodes that they replace took: where our kernel does not serve (dtypes that
// differ, float64), they are those nodes' formula.

// weight * to(x * rsqrt(mean(x^2) + eps)), or with plus_one to((x * rsqrt(..)) * (1 + weight)); in fp32, to() is to
// `dtype` (that of x if there is none). No gradient of the weight where our kernel serves.
torch::Tensor fused_rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double eps, bool plus_one,
                             std::optional<torch::ScalarType> dtype);
// x * cos + cat(-x[half:], x[:half]) * sin, halves along `dim`.
torch::Tensor fused_rope(const torch::Tensor& x, const torch::Tensor& cos, const torch::Tensor& sin, std::int64_t half,
                         std::int64_t dim);
// silu(gate) * up
torch::Tensor fused_swiglu(const torch::Tensor& gate, const torch::Tensor& up);
// gelu(x, "tanh")
torch::Tensor fused_gelu(const torch::Tensor& x);
// gelu(gate, "tanh") * up
torch::Tensor fused_geglu(const torch::Tensor& gate, const torch::Tensor& up);
// The same two of joined.chunk(2, -1) = gate, up.
torch::Tensor fused_swiglu_of_halves(const torch::Tensor& joined);
torch::Tensor fused_geglu_of_halves(const torch::Tensor& joined);

// Rows to the ranks that hold their experts, with the ends of the rows there, and back (experts/divide.h). These are
// what one rank alone does: nothing. Where ranks divide the experts, a block's ProductHooks do it.
std::tuple<torch::Tensor, torch::Tensor> rows_to_owners(const torch::Tensor& rows, const torch::Tensor& ends);
torch::Tensor rows_from_owners(const torch::Tensor& rows, const torch::Tensor& ends);

}  // namespace roundtable
