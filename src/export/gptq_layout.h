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

class GptqLayout {
 public:
  // `zero_offset` is what readers add to a stored zero point: 1, or 0.
  explicit GptqLayout(int zero_offset) : zero_offset_(zero_offset) {}

  std::optional<std::string> layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const;
  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme) const;
  std::vector<NamedTensor> pack(const std::string& name, const QuantizedWeight& weight) const;
  QuantizedWeight unpack(const TensorReader& reader, const LinearSpec& linear, const QuantScheme& scheme) const;

 private:
  int zero_offset_;
};

}  // namespace roundtable
