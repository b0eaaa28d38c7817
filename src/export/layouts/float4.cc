#include "export/layouts/float4.h"

#include <torch/types.h>

namespace roundtable {

Float4Format::Float4Format(std::string format, WeightType type, torch::ScalarType scale_type, nlohmann::json weights)
    : CompressedTensorsFormat(std::move(format)), type_(type), scale_type_(scale_type), weights_(std::move(weights)) {}

std::vector<TensorSpec> Float4Format::layout(const LinearSpec& linear, const QuantScheme& scheme,
                                             torch::ScalarType) const {
  return {{linear.name + ".weight_packed", torch::kUInt8, {linear.out, linear.in / 2}},
          {linear.name + ".weight_scale", scale_type_, {linear.out, scheme.groups(linear.in)}}};
}

QuantScheme Float4Format::read_weights(const JsonObject& weights) const {
  for (const char* key : {"num_bits", "type", "strategy", "group_size"}) {
    if (weights.json().value(key, nlohmann::json()) != weights_[key]) {
      weights.fail(key, "is not " + weights_[key].dump() + ", which this format has");
    }
  }
  QuantScheme scheme;
  scheme.type = type_;
  scheme.group_size = weights_["group_size"].get<std::int64_t>();
  return scheme;
}

std::vector<NamedTensor> Float4Format::pack_with(const LinearSpec& linear, const torch::Tensor& q,
                                                 const torch::Tensor& scale) const {
  const torch::Tensor bits = q.cpu();
  const torch::Tensor low = bits.slice(1, 0, linear.in, 2), high = bits.slice(1, 1, linear.in, 2);
  return {{linear.name + ".weight_packed", low.bitwise_or(high.mul(16)).contiguous()},
          {linear.name + ".weight_scale", scale.contiguous()}};
}

QuantizedWeight Float4Format::unpack_with(const TensorReader& reader, const LinearSpec& linear,
                                          const QuantScheme& scheme, const torch::Tensor& scale) const {
  const torch::Tensor packed = reader.read_tensor(layout(linear, scheme, torch::kFloat32).front());
  const torch::Tensor q = torch::stack({packed.bitwise_and(15), packed.floor_divide(16)}, 2);
  return {scheme, q.view({linear.out, linear.in}), scale, torch::zeros(scale.sizes(), torch::kUInt8)};
}

}  // namespace roundtable
