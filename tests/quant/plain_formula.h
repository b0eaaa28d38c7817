// The formulas of fake quantization written plainly in LibTorch operations, as auto-round 0.16.1 writes them
// (data_type/int.py: quant_tensor_sym, quant_tensor_asym), for LibTorch's autograd to differentiate.
#pragma once

#include <torch/types.h>

#include "quant/fake_quant.h"

namespace roundtable::testing {

// round with gradient 1.
inline torch::Tensor round_ste(const torch::Tensor& x) { return (x.round() - x).detach() + x; }

struct PlainParameters {
  torch::Tensor v, min_scale, max_scale;
};

inline torch::Tensor group_and_pad(const torch::Tensor& x, const QuantScheme& scheme) {
  const auto width = scheme.group_columns(x.size(1));
  const auto padding = scheme.groups(x.size(1)) * width - x.size(1);
  return torch::constant_pad_nd(x, {0, padding}).reshape({-1, width});
}

// Dequantized weight [out, in]; everything in fp32.
inline torch::Tensor plain_fake_quantize(const torch::Tensor& weight, const PlainParameters& p,
                                         const QuantScheme& scheme) {
  const torch::Tensor w = group_and_pad(weight.to(torch::kFloat32), scheme);
  const torch::Tensor v = group_and_pad(p.v, scheme);
  const torch::Tensor wmin = std::get<0>(w.min(1)).clamp_max(0) * p.min_scale.flatten();
  const torch::Tensor wmax = std::get<0>(w.max(1)).clamp_min(0) * p.max_scale.flatten();
  // The reference clamps tensors of the scale's dtype, and so to the limit as that dtype holds it.
  const double least = scheme.fp16_scale ? torch::tensor(1e-5, torch::kFloat16).item<double>() : 1e-8;
  const auto to_scale_dtype = [&](const torch::Tensor& s) {
    return scheme.fp16_scale ? (s.to(torch::kFloat16).to(torch::kFloat32) - s).detach() + s : s;
  };
  torch::Tensor out;
  if (scheme.symmetric) {
    const double levels = 1 << (scheme.bits - 1);
    const torch::Tensor largest = torch::maximum(wmax, -wmin);
    torch::Tensor scale;
    if (scheme.full_range) {
      const torch::Tensor sign = (wmax < -wmin).to(torch::kFloat32) * 2 - 1;
      scale = to_scale_dtype(sign * largest / levels);
    } else {
      scale = to_scale_dtype(largest / (levels - 0.5));
    }
    scale = torch::where(scale < 0, scale.clamp_max(-least), scale.clamp_min(least)).unsqueeze(1);
    out = scale * round_ste(w / scale + v).clamp(-levels, levels - 1);
  } else {
    const double top = (1 << scheme.bits) - 1;
    const torch::Tensor scale = to_scale_dtype((wmax - wmin) / top).clamp_min(least).unsqueeze(1);
    const torch::Tensor zero = round_ste(-wmin.unsqueeze(1) / scale);
    out = scale * ((round_ste(w / scale + v) + zero).clamp(0, top) - zero);
  }
  return out.view({weight.size(0), -1}).narrow(1, 0, weight.size(1));
}

}  // namespace roundtable::testing
