// The formulas of fake quantization written plainly in LibTorch operations, as auto-round 0.16.1 writes them
// (data_type/int.py: quant_tensor_sym, quant_tensor_asym; mxfp.py: quant_mx; nvfp.py: nv_fp4), for LibTorch's autograd to
// differentiate.
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

// 2^floor(log2(x)) of a positive x, where the gradient of floor is 1: then it is this power over x.
inline torch::Tensor power_within_ste(const torch::Tensor& x) {
  return torch::exp2(x.detach().log2().floor()) * (x / x.detach());
}

// E2M1, half to even, of |t| <= 6: steps of 0.5 below 2, of 1 below 4, of 2 from there on.
inline torch::Tensor plain_e2m1(const torch::Tensor& t) {
  const torch::Tensor magnitude = t.detach().abs();
  const torch::Tensor step =
      torch::where(magnitude < 2, torch::full_like(t, 0.5), torch::where(magnitude < 4, 1.0, 2.0).to(t.dtype()));
  return (t.detach() / step).round() * step;
}

// Dequantized weight [out, in] of floats of 4 bits, in fp32; group_size divides the row.
inline torch::Tensor plain_float4(const torch::Tensor& weight, const torch::Tensor& v_in, const torch::Tensor& max_scale,
                                  const QuantScheme& scheme) {
  const torch::Tensor w = weight.reshape({-1, scheme.group_size});
  const torch::Tensor v = v_in.reshape({-1, scheme.group_size});
  const torch::Tensor reach = std::get<0>(w.abs().max(1)) * max_scale.flatten();
  torch::Tensor scale;
  if (scheme.type == WeightType::kMxFp4) {
    const torch::Tensor two = torch::full_like(reach, 2).detach();  // quant_mx's floor(log2) for a group of zeros is 1
    scale = power_within_ste(torch::where(reach > 0, reach, two)) / 4;
  } else {
    const torch::Tensor wanted = (scheme.global_scale * reach / 6).clamp_max(448);
    scale = ((wanted.to(torch::kFloat8_e4m3fn).to(torch::kFloat32) - wanted).detach() + wanted) / scheme.global_scale;
  }
  scale = scale.unsqueeze(1);
  const torch::Tensor divisor = torch::where(scale > 0, scale, torch::ones_like(scale));
  const torch::Tensor t = (torch::where(scale > 0, w / divisor, torch::zeros_like(w)) + v).clamp(-6, 6);
  torch::Tensor level;
  if (scheme.type == WeightType::kMxFp4) {
    // quant_mx rounds t over its own power of two: the gradient goes through that, too.
    const torch::Tensor power = power_within_ste(t.abs().clamp_min(1));
    const torch::Tensor mantissa = t / power;
    level = ((plain_e2m1(t) / power.detach() - mantissa).detach() + mantissa) * power;
  } else {
    level = (plain_e2m1(t) - t).detach() + t;
  }
  return (scale * level).view(weight.sizes());
}

}  // namespace roundtable::testing
