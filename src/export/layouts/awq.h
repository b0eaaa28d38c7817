// The tensors of AWQ checkpoints (version gemm), which two formats share. Inside this folder.
//
// Source: auto-round 0.16.1, export/export_to_awq/utils.py, WQLinear_GEMM (AutoAWQ 0.2.9's class of that name, from
// awq/modules/linear/gemm.py). Per linear layer [out, in]:
//
//   NAME.qweight  int32 [in, out / 8]       eight integers of 4 bits per word, of neighbouring outputs
//   NAME.qzeros   int32 [groups, out / 8]   zero points as they are, in the same order
//   NAME.scales   fp16  [groups, out]
//   NAME.bias     fp16  [out], where the layer has one
//
// The word holds output 8 w + j at nibble kNibble[j], from the lowest: 0 4 1 5 2 6 3 7.
#pragma once

#include "export/format.h"

namespace roundtable {

class AwqFormat : public PackedFormat {
 public:
  std::optional<std::string> scheme_obstacle(const QuantScheme& scheme) const override;
  std::optional<std::string> layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const override;
  std::optional<torch::ScalarType> bias_type() const override { return torch::kFloat16; }

  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme,
                                 torch::ScalarType float_type) const override;
  std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                torch::ScalarType float_type) const override;
  QuantizedWeight unpack(const TensorReader& reader, const LinearSpec& linear,
                         const QuantScheme& scheme) const override;
};

}  // namespace roundtable
