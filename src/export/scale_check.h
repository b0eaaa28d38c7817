// Whether the scales of a model's layers fit the types that formats store them in, asked before a layer is tuned.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "export/format.h"

namespace roundtable {

class ScaleCheck {
 public:
  // `formats` are all that the layers are written in; they are kept.
  ScaleCheck(const CheckpointScheme& checkpoint, std::vector<const CheckpointFormat*> formats);

  // Throws Error (kNumeric) with the layer's name and its largest weight where a scale would not be finite in a format.
  // `tensor` is the full name, "model.layers.3.mlp.up_proj.weight", and `weight` [out, in] in fp32 or bf16. A tensor
  // that is not quantized passes. Tuning only makes scales smaller, so that what passes is finite in the end too.
  void operator()(const std::string& tensor, const torch::Tensor& weight) const;

  // The weights of the layers that it can refuse.
  std::vector<ParameterSpec> weights() const;

 private:
  struct Layer {
    ParameterSpec weight;
    QuantScheme scheme;
  };

  std::map<std::string, Layer> layers_;  // by the weight's name
  std::vector<const CheckpointFormat*> formats_;
};

}  // namespace roundtable
