// Packing and unpacking qweight, qzeros and scales.
#include "export/layouts/gptq.h"

#include <fmt/format.h>
#include <torch/types.h>

#include "base/error.h"
#include "quant/packing.h"

namespace roundtable {
namespace {

constexpr std::int64_t kRun = 32;  // values that are packed together

}  // namespace

std::optional<std::string> GptqFormat::layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const {
  if (linear.in % kRun != 0) return fmt::format("its input dimension {} is not a multiple of {}", linear.in, kRun);
  if (linear.out % kRun != 0) return fmt::format("its output dimension {} is not a multiple of {}", linear.out, kRun);
  // qlinear_torch_zp.py spreads whole groups over the input dimension; the other backends check the same.
  return group_size_obstacle(linear, scheme);
}

std::vector<TensorSpec> GptqFormat::layout(const LinearSpec& linear, const QuantScheme& scheme,
                                           torch::ScalarType) const {
  const std::int64_t groups = scheme.groups(linear.in);
  return {{linear.name + ".qweight", torch::kInt32, {linear.in / kRun * scheme.bits, linear.out}},
          {linear.name + ".qzeros", torch::kInt32, {groups, linear.out / kRun * scheme.bits}},
          {linear.name + ".scales", torch::kFloat16, {groups, linear.out}}};
}

std::vector<NamedTensor> GptqFormat::pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                          torch::ScalarType) const {
  const int bits = weight.scheme.bits;
  const torch::Tensor zeros = weight.zero_point.cpu();  // [out, groups]
  RT_CHECK(zeros.min().item<int>() >= zero_offset_);
  return {{linear.name + ".qweight", pack_rows(weight.q.cpu().t(), bits)},
          {linear.name + ".qzeros", pack_rows(zeros.sub(zero_offset_), bits).t().contiguous()},
          {linear.name + ".scales", weight.scale.cpu().t().to(torch::kFloat16).contiguous()}};
}

QuantizedWeight GptqFormat::unpack(const TensorReader& reader, const LinearSpec& linear,
                                   const QuantScheme& scheme) const {
  const std::vector<TensorSpec> specs = GptqFormat::layout(linear, scheme, torch::kFloat16);
  const torch::Tensor qweight = reader.read_tensor(specs[0]);
  const torch::Tensor qzeros = reader.read_tensor(specs[1]);
  return {scheme, unpack_rows(qweight, scheme.bits, linear.in).t().contiguous(),
          read_scales(reader, specs[2]).t().contiguous(),
          unpack_rows(qzeros.t(), scheme.bits, linear.out).add(zero_offset_)};
}

}  // namespace roundtable
