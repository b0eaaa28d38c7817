// Checks shapes and hands the arrays to the kernels of the tensors' device.
#include "quant/fake_quant.h"

#include <c10/core/DeviceGuard.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "quant/fake_quant_kernels.h"
#include "quant/fake_quant_math.h"

namespace roundtable {
namespace {

bool is_bf16(const torch::Tensor& tensor) {
  RT_CHECK(tensor.scalar_type() == torch::kBFloat16 || tensor.scalar_type() == torch::kFloat32);
  return tensor.scalar_type() == torch::kBFloat16;
}

WeightArrays arrays_of(const torch::Tensor& weight, const RoundingParameters& p, const QuantScheme& scheme) {
  RT_CHECK(weight.dim() == 2 && weight.is_contiguous() && p.v.is_contiguous());
  RT_CHECK(p.v.sizes() == weight.sizes());
  const std::int64_t groups = scheme.groups(weight.size(1));
  RT_CHECK(p.min_scale.numel() == weight.size(0) * groups);
  RT_CHECK(scheme.type != WeightType::kNvFp4 || scheme.global_scale > 0);
  return {weight.const_data_ptr(),    is_bf16(weight), weight.size(0), weight.size(1), groups, p.v.data_ptr<float>(),
          p.min_scale.data_ptr<float>(), p.max_scale.data_ptr<float>(), p.wmin.data_ptr<float>(),
          p.wmax.data_ptr<float>()};
}

// W [out, in] as [out, G, group], the last group padded with zeros, which change neither min(W, 0) nor max(W, 0).
torch::Tensor grouped(const torch::Tensor& weight, const QuantScheme& scheme) {
  const std::int64_t groups = scheme.groups(weight.size(1));
  const std::int64_t width = scheme.group_columns(weight.size(1));
  const std::int64_t padding = groups * width - weight.size(1);
  const torch::Tensor padded = padding == 0 ? weight : torch::constant_pad_nd(weight, {0, padding});
  return padded.view({weight.size(0), groups, width});
}

void quantize_into(const bool* wanted, const torch::Tensor& weight, const RoundingParameters& parameters,
                   const QuantScheme& scheme, QuantizedWeight& out) {
  const c10::DeviceGuard guard(weight.device());  // kernels run on the calling thread's device
  const auto kernel = weight.is_cuda() ? cuda::quantize : cpu::quantize;
  kernel(arrays_of(weight, parameters, scheme), scheme, wanted,
         {out.q.data_ptr<std::uint8_t>(), out.scale.data_ptr<float>(), out.zero_point.data_ptr<std::uint8_t>()});
}

}  // namespace

QuantScheme with_global_scale(const QuantScheme& scheme, const std::vector<torch::Tensor>& weights) {
  if (scheme.type != WeightType::kNvFp4 || scheme.global_scale > 0) return scheme;
  float largest = 0;
  for (const torch::Tensor& weight : weights) {
    largest = std::max(largest, weight.abs().amax().to(torch::kFloat32).item<float>());
  }
  int exponent = 0;
  const float quotient = kLargestE4m3 * kLargestE2m1 / largest;
  if (largest > 0) std::frexp(std::isfinite(quotient) ? quotient : std::numeric_limits<float>::max(), &exponent);
  QuantScheme out = scheme;
  out.global_scale = std::ldexp(1.0f, std::clamp(exponent - 1, -126, 126));
  return out;
}

GroupScales nearest_scales(const torch::Tensor& weight, const QuantScheme& scheme) {
  const torch::Tensor in_groups = grouped(weight, scheme);
  const torch::Tensor wmin = in_groups.amin(2).clamp_max(0).to(torch::kFloat32).cpu().contiguous();
  const torch::Tensor wmax = in_groups.amax(2).clamp_min(0).to(torch::kFloat32).cpu().contiguous();
  GroupScales scales{torch::empty_like(wmin), torch::empty_like(wmin)};
  const auto *low = wmin.const_data_ptr<float>(), *high = wmax.const_data_ptr<float>();
  auto *scale = scales.scale.data_ptr<float>(), *zero_point = scales.zero_point.data_ptr<float>();
  for (std::int64_t group = 0; group < wmin.numel(); ++group) {
    const GroupGrid grid = group_grid(scheme, {low[group], high[group], 1.0f, 1.0f});
    scale[group] = grid.scale;
    zero_point[group] = grid.zero_point;
  }
  return scales;
}

void replace_zero_scales(QuantizedWeight& weight) {
  if (weight.scheme.type != WeightType::kNvFp4) return;
  const torch::Tensor zero = weight.scale.eq(0);
  if (!zero.any().item<bool>()) return;
  constexpr float kLeastE4m3 = 0.001953125f;  // 2^-9
  weight.scale.masked_fill_(zero, kLeastE4m3 / weight.scheme.global_scale);
  const std::int64_t columns = weight.q.size(1);
  const std::int64_t width = weight.scheme.group_columns(columns);
  weight.q.masked_fill_(zero.repeat_interleave(width, 1).narrow(1, 0, columns), 0);
}

RoundingParameters make_rounding_parameters(const torch::Tensor& weight, const QuantScheme& scheme) {
  const torch::Tensor in_groups = grouped(weight, scheme);
  RoundingParameters p;
  p.wmin = in_groups.amin(2).clamp_max(0).to(torch::kFloat32).contiguous();
  p.wmax = in_groups.amax(2).clamp_min(0).to(torch::kFloat32).contiguous();
  const auto fp32 = weight.options().dtype(torch::kFloat32);
  p.v = torch::zeros(weight.sizes(), fp32);
  p.min_scale = torch::ones(p.wmin.sizes(), fp32);
  p.max_scale = torch::ones(p.wmin.sizes(), fp32);
  return p;
}

void search_scales(const torch::Tensor& weight, RoundingParameters& parameters, const QuantScheme& scheme,
                   const torch::Tensor& importance) {
  RT_CHECK(importance.dim() == 1 && importance.size(0) == weight.size(1) && importance.is_contiguous());
  const c10::DeviceGuard guard(weight.device());
  const auto kernel = weight.is_cuda() ? cuda::search_scales : cpu::search_scales;
  kernel(arrays_of(weight, parameters, scheme), scheme, importance.const_data_ptr<float>());
}

void fake_quantize(const torch::Tensor& weight, const RoundingParameters& parameters, const QuantScheme& scheme,
                   torch::Tensor& result) {
  RT_CHECK(result.sizes() == weight.sizes() && result.is_contiguous());
  const c10::DeviceGuard guard(weight.device());
  const auto kernel = weight.is_cuda() ? cuda::fake_quantize : cpu::fake_quantize;
  kernel(arrays_of(weight, parameters, scheme), scheme, result.data_ptr(), is_bf16(result));
}

void sign_step(const torch::Tensor& weight, RoundingParameters& parameters, const QuantScheme& scheme,
               const torch::Tensor& gradient, const StepSize& size) {
  RT_CHECK(gradient.sizes() == weight.sizes() && gradient.is_contiguous());
  const c10::DeviceGuard guard(weight.device());
  const auto kernel = weight.is_cuda() ? cuda::sign_step : cpu::sign_step;
  kernel(arrays_of(weight, parameters, scheme), scheme, gradient.const_data_ptr<float>(), size);
}

RoundingGradients rounding_gradients(const torch::Tensor& weight, const RoundingParameters& parameters,
                                     const QuantScheme& scheme, const torch::Tensor& gradient) {
  RT_CHECK(gradient.sizes() == weight.sizes() && gradient.is_contiguous());
  RoundingGradients out{torch::empty_like(parameters.v), torch::empty_like(parameters.min_scale),
                        torch::empty_like(parameters.max_scale)};
  const c10::DeviceGuard guard(weight.device());
  const auto kernel = weight.is_cuda() ? cuda::rounding_gradients : cpu::rounding_gradients;
  kernel(arrays_of(weight, parameters, scheme), scheme, gradient.const_data_ptr<float>(),
         {out.v.data_ptr<float>(), out.min_scale.data_ptr<float>(), out.max_scale.data_ptr<float>()});
  return out;
}

QuantizedWeight quantize(const torch::Tensor& weight, const RoundingParameters& parameters, const QuantScheme& scheme) {
  const auto bytes = weight.options().dtype(torch::kUInt8);
  QuantizedWeight out{scheme, torch::empty(weight.sizes(), bytes), torch::empty_like(parameters.min_scale),
                      torch::empty(parameters.min_scale.sizes(), bytes)};
  quantize_into(nullptr, weight, parameters, scheme, out);
  return out;
}

void quantize_where(const torch::Tensor& wanted, const torch::Tensor& weight, const RoundingParameters& parameters,
                    const QuantScheme& scheme, QuantizedWeight& out) {
  RT_CHECK(wanted.device() == weight.device() && out.q.sizes() == weight.sizes());
  quantize_into(wanted.const_data_ptr<bool>(), weight, parameters, scheme, out);
}

QuantizedWeight round_to_nearest(const torch::Tensor& weight, const QuantScheme& wanted,
                                 const torch::Tensor& importance) {
  constexpr std::int64_t kRows = 4096;
  const QuantScheme scheme = with_global_scale(wanted, {weight});
  std::vector<torch::Tensor> q, scale, zero_point;
  for (const torch::Tensor& rows : weight.split(kRows)) {
    RoundingParameters parameters = make_rounding_parameters(rows, scheme);
    if (importance.defined()) search_scales(rows, parameters, scheme, importance);
    const QuantizedWeight part = quantize(rows, parameters, scheme);
    q.push_back(part.q);
    scale.push_back(part.scale);
    zero_point.push_back(part.zero_point);
  }
  QuantizedWeight whole{scheme, torch::cat(q), torch::cat(scale), torch::cat(zero_point)};
  replace_zero_scales(whole);
  return whole;
}

}  // namespace roundtable
