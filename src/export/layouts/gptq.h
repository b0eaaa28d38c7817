// The tensors of GPTQ checkpoints, which several formats share. Inside this folder.
//
// Source: auto-round 0.16.1, auto_round_extension/torch/qlinear_torch_zp.py (zero point minus one) and
// qlinear_torch.py (zero point as it is). Per linear layer [out, in]:
//
//   NAME.qweight  int32 [in / 32 * bits, out]       the integers, packed down the input dimension
//   NAME.qzeros   int32 [groups, out / 32 * bits]   zero points, packed along the output dimension
//   NAME.scales   fp16  [groups, out]
//   NAME.bias     fp16  [out], where the layer has one
//
// A Conv1D of transformers, whose float weight is [in, out], is packed as the linear layer that it is (W.t() first).
#pragma once

#include "export/format.h"

namespace roundtable {

class GptqFormat : public PackedFormat {
 public:
  std::optional<std::string> scheme_obstacle(const QuantScheme&) const override { return std::nullopt; }
  std::optional<std::string> layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const override;
  int min_zero_point() const override { return zero_offset_; }
  std::optional<torch::ScalarType> bias_type() const override { return torch::kFloat16; }

  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme,
                                 torch::ScalarType float_type) const override;
  std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                torch::ScalarType float_type) const override;
  QuantizedWeight unpack(const TensorReader& reader, const LinearSpec& linear,
                         const QuantScheme& scheme) const override;

 protected:
  // `zero_offset` is what readers add to a stored zero point: 1, or 0.
  explicit GptqFormat(int zero_offset) : zero_offset_(zero_offset) {}

 private:
  int zero_offset_;
};

}  // namespace roundtable
