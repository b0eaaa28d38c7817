// A quantized checkpoint as the source of another: the same integers, scales and zero points.
#pragma once

#include <string>

#include "convert/source.h"
#include "export/quantized_checkpoint.h"
#include "graph/model.h"

namespace roundtable {

class PackedSource final : public ConversionSource {
 public:
  // `model` is the checkpoint's. Throws Error (kBadInput) where the directory cannot be read, or holds no integers.
  PackedSource(const std::string& directory, const Model& model);

  QuantizedWeight read_layer(const LinearSpec& layer, const CheckpointFormat& format) const override;
  torch::Tensor read_plain(const TensorSpec& tensor) const override;
  torch::Tensor read_floats(const ParameterSpec& spec) const override { return checkpoint_.read_floats(spec); }

 private:
  void find_layers(const Model& model);
  void find_plain(const Model& model);

  QuantizedCheckpoint checkpoint_;
};

}  // namespace roundtable
