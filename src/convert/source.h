// What a conversion reads: a quantized checkpoint, layer by layer, and its other tensors.
#pragma once

#include <torch/types.h>

#include <set>
#include <string>
#include <vector>

#include "export/quantized_checkpoint.h"
#include "graph/model.h"

namespace roundtable {

class ConversionSource {
 public:
  // `format` is what is made of it, and is kept. `model` is the checkpoint's. Throws Error (kBadInput) where the directory cannot be read, or holds
  // no integers.
  ConversionSource(const std::string& directory, const CheckpointFormat& format, const Model& model);

  const std::string& directory() const { return directory_; }
  const nlohmann::json& config() const { return checkpoint_.config(); }
  const Model& model() const { return model_; }
  const CheckpointScheme& layers() const { return layers_; }
  torch::ScalarType float_type() const { return float_type_; }

  // The tensors that belong to no quantized layer, biases included, by name.
  const std::vector<TensorSpec>& plain() const { return plain_; }
  // Whether a plain tensor is a quantized layer's bias, which may have a type of its own in the format that is made.
  bool is_quantized_bias(const std::string& name) const;

  // Throws Error (kBadInput) where the zero points do not fit the format that is made, naming formats that can.
  QuantizedWeight read_layer(const LinearSpec& layer) const;
  torch::Tensor read_plain(const TensorSpec& tensor) const;
  // What the model computes with: dequantized in fp32, and of single experts what the model's tensor has.
  torch::Tensor read_floats(const ParameterSpec& spec) const { return checkpoint_.read_floats(spec); }

 private:
  CheckpointScheme find_layers() const;
  void find_plain();

  std::string directory_;
  const CheckpointFormat& format_;
  QuantizedCheckpoint checkpoint_;
  Model model_;
  CheckpointScheme layers_;
  torch::ScalarType float_type_;
  std::vector<TensorSpec> plain_;
  std::set<std::string> quantized_;  // layers as they are written
};

}  // namespace roundtable
