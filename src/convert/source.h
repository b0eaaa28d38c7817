// What a checkpoint is made from: quantized layers and all other tensors, one at a time, wherever they come from.
#pragma once

#include <torch/types.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "export/format.h"
#include "model/load/parameter.h"

namespace roundtable {

class ConversionSource {
 public:
  virtual ~ConversionSource() = default;

  const std::string& directory() const { return directory_; }
  const CheckpointModel& model() const { return model_; }
  const CheckpointScheme& layers() const { return layers_; }
  torch::ScalarType float_type() const { return float_type_; }  // of the model's own weights

  // The tensors that belong to no quantized layer, biases included.
  const std::vector<TensorSpec>& plain() const { return plain_; }
  // Biases of all experts of a stack, each of them one tensor in the model.
  const std::vector<ParameterSpec>& expert_biases() const { return expert_biases_; }
  // Whether a plain tensor is a quantized layer's bias, which may have a type of its own in the format that is made.
  bool is_quantized_bias(const std::string& name) const;
  // The source's file of a tensor, or of a layer's weight: what lies in two of them is not written into one. Empty
  // where that does not matter.
  virtual std::string file_of(const std::string& /*name*/) const { return ""; }

  // A quantized layer on a grid that `format` holds. Throws Error (kBadInput) where its zero points do not fit, naming
  // formats that can.
  virtual QuantizedWeight read_layer(const LinearSpec& layer, const CheckpointFormat& format) const = 0;
  virtual torch::Tensor read_plain(const TensorSpec& tensor) const = 0;
  // What the model computes with, in the shape of the spec: a quantized layer is dequantized, single experts are put
  // together.
  virtual torch::Tensor read_floats(const ParameterSpec& spec) const = 0;

 protected:
  explicit ConversionSource(std::string directory) : directory_(std::move(directory)) {}

  // Knows the layers of `layers_` by the names that they are written under.
  void note_quantized_layers();

  std::string directory_;
  CheckpointModel model_;
  CheckpointScheme layers_;
  torch::ScalarType float_type_ = torch::kBFloat16;
  std::vector<TensorSpec> plain_;
  std::vector<ParameterSpec> expert_biases_;

 private:
  std::set<std::string> quantized_;
};

}  // namespace roundtable
