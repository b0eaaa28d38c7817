// What mxfp4 and nvfp4 have in common: floats of 4 bits, two per byte, and one scale per group.
//
// Source: compressed-tensors 0.20.0, compressors/nvfp4/helpers.py (pack_fp4_to_uint8, unpack_fp4_from_uint8). Per
// linear layer [out, in], besides what the format adds:
//
//   NAME.weight_packed  uint8 [out, in / 2]   E2M1's bits, the first of two in the low half
//   NAME.weight_scale   uint8 or F8_E4M3 [out, groups]
//
// Inside this folder.
#pragma once

#include "export/layouts/compressed_tensors.h"

namespace roundtable {

class Float4Format : public CompressedTensorsFormat {
 public:
  bool has_place_for(WeightType type) const override { return type == type_; }
  bool is_home_of(WeightType type) const override { return type == type_; }
  std::optional<std::string> scheme_obstacle(const QuantScheme&) const override { return std::nullopt; }
  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme,
                                 torch::ScalarType float_type) const override;

 protected:
  // `scale_type` of weight_scale; `weights` are the quantization arguments, the same for every layer.
  Float4Format(std::string format, WeightType type, torch::ScalarType scale_type, nlohmann::json weights);

  nlohmann::json weights_json(const QuantScheme&) const override { return weights_; }
  QuantScheme read_weights(const JsonObject& weights) const override;

  // weight_packed and weight_scale, the latter from `scale` [out, groups] of its type; and the former read back.
  std::vector<NamedTensor> pack_with(const LinearSpec& linear, const torch::Tensor& q,
                                     const torch::Tensor& scale) const;
  QuantizedWeight unpack_with(const TensorReader& reader, const LinearSpec& linear, const QuantScheme& scheme,
                              const torch::Tensor& scale) const;

 private:
  WeightType type_;
  torch::ScalarType scale_type_;
  nlohmann::json weights_;
};

}  // namespace roundtable
