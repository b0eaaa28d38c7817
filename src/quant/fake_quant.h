// Fake quantization of whole weight matrices, on the device that the tensors are on (CPU or CUDA). On CUDA they
// enqueue their work on the current stream; only with_global_scale waits for its result. The arithmetic is in
// fake_quant_math.h.
#pragma once

#include <torch/types.h>

#include "quant/scheme.h"
#include "quant/step_size.h"

namespace roundtable {

// What is tuned of one weight matrix W [out, in], and the ranges that its grids come from. G = groups per row.
struct RoundingParameters {
  torch::Tensor v;          // [out, in] fp32, added before rounding; starts at 0
  torch::Tensor min_scale;  // [out, G]  fp32 in [0, StepSize::minmax_bound]; starts at 1
  torch::Tensor max_scale;  // [out, G]  the same
  torch::Tensor wmin;       // [out, G]  fp32, min(W, 0) of each group, or what search_scales() has found
  torch::Tensor wmax;       // [out, G]  fp32, max(W, 0) of each group, or the same
};

// A quantized matrix: dequantized weight = scale * (q - zero_point), group by group; for floats scale * e2m1(q).
struct QuantizedWeight {
  QuantScheme scheme;
  torch::Tensor q;           // [out, in] uint8, in [0, 2^bits - 1]; for floats their bits
  torch::Tensor scale;       // [out, G]  fp32 (values representable in fp16 where the scheme says so)
  torch::Tensor zero_point;  // [out, G]  uint8; for floats 0
};

// dL/dp for the three tuned parameters, in the shapes of RoundingParameters.
struct RoundingGradients {
  torch::Tensor v;
  torch::Tensor min_scale;
  torch::Tensor max_scale;
};

// Every function takes a contiguous weight [out, in] in fp32 or bf16 and works on the weight's device.

// `scheme` with the global_scale that brings the scales of all these weights into E4M3's range, if it is kNvFp4 and
// has none: the largest power of two up to 448 * 6 / max|W|. Engines fuse layers (q, k and v; gate and up) that then
// have one global scale. A power of two loses no precision, since E4M3 is a floating-point type.
QuantScheme with_global_scale(const QuantScheme& scheme, const std::vector<torch::Tensor>& weights);

// For kNvFp4 the functions below need the global scale; round_to_nearest takes the weight's own where there is none.
RoundingParameters make_rounding_parameters(const torch::Tensor& weight, const QuantScheme& scheme);

// Sets wmin and wmax of each group so that with a min_scale and max_scale of 1 its scale, and its zero point, are those
// of all that scale_search.h tries with which rounding to nearest has the least sum of
// importance[j] * (Wq[i, j] - W[i, j])^2. `importance` [in], fp32: how much each input of the layer counts in its
// output's error. `parameters` are those of make_rounding_parameters(). Of symmetric integers only one of min_scale and
// max_scale moves the scale afterwards: the one of the side that is not 0.
void search_scales(const torch::Tensor& weight, RoundingParameters& parameters, const QuantScheme& scheme,
                   const torch::Tensor& importance);

// `result` [out, in], fp32 or bf16, becomes the dequantized weight under the current parameters.
void fake_quantize(const torch::Tensor& weight, const RoundingParameters& parameters, const QuantScheme& scheme,
                   torch::Tensor& result);

// One signed-gradient step (SignRound, equation 6: p -= lr * sign(dL/dp)) for all three parameters from
// `gradient` = dL/dWq, [out, in] fp32. In place.
void sign_step(const torch::Tensor& weight, RoundingParameters& parameters, const QuantScheme& scheme,
               const torch::Tensor& gradient, const StepSize& size);

// The gradients that sign_step takes the signs of.
RoundingGradients rounding_gradients(const torch::Tensor& weight, const RoundingParameters& parameters,
                                     const QuantScheme& scheme, const torch::Tensor& gradient);

// The integers, scales and zero points under the current parameters.
QuantizedWeight quantize(const torch::Tensor& weight, const RoundingParameters& parameters, const QuantScheme& scheme);

// The same into `out`, which holds an earlier result, if `wanted` is true. `wanted` is one bool on the weight's device
// and is read there: the host does not wait for it.
void quantize_where(const torch::Tensor& wanted, const torch::Tensor& weight, const RoundingParameters& parameters,
                    const QuantScheme& scheme, QuantizedWeight& out);

// The grid of each group of a matrix, on the host: [out, G] fp32.
struct GroupScales {
  torch::Tensor scale;
  torch::Tensor zero_point;
};

// Those that round_to_nearest() takes, and that tuning starts from. For kNvFp4 the scheme needs the global scale.
GroupScales nearest_scales(const torch::Tensor& weight, const QuantScheme& scheme);

// Gives groups with a scale of 0 the least one of their type instead, and zeros for weights: the dequantized weights
// are the same zeros. Only E4M3 (kNvFp4) has such a scale, for groups of zeros and of weights far below the others.
void replace_zero_scales(QuantizedWeight& weight);

// Rounding to nearest: v is 0, scales are 1; with `importance` ([in] fp32, on the weight's device) they are those that
// search_scales() finds. Works on some rows at a time, so that v never has the whole matrix's size.
QuantizedWeight round_to_nearest(const torch::Tensor& weight, const QuantScheme& scheme,
                                 const torch::Tensor& importance = {});

// scale * (q - zero_point) or scale * e2m1(q), rounded once to `dtype`: the same bits as fake_quantize gave.
torch::Tensor dequantize(const QuantizedWeight& weight, torch::ScalarType dtype);

}  // namespace roundtable
