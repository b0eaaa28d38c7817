// A quantized model directory in any format that holds integers.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "export/format.h"
#include "model/load/tensor_source.h"

namespace roundtable {

class QuantizedCheckpoint {
 public:
  // Throws Error (kBadInput) for a directory that is not quantized, or whose format cannot be read (it names those that
  // can).
  explicit QuantizedCheckpoint(const std::string& directory);

  const PackedFormat& format() const { return *format_; }
  const Checkpoint& checkpoint() const { return floats_.checkpoint(); }
  const CheckpointSource& floats() const { return floats_; }
  const nlohmann::json& config() const { return config_; }  // the whole config.json

  // Of a layer of the model, by its full name, in whatever parts it is written (expert_layers.h).
  bool is_quantized(const LinearSpec& linear) const;
  QuantScheme scheme_of(const LinearSpec& linear) const;
  QuantizedWeight read(const LinearSpec& linear) const;
  // As TensorSource: a quantized layer is dequantized to fp32, and single experts are put together.
  torch::Tensor read_floats(const ParameterSpec& spec) const;

 private:
  torch::Tensor read_biases(const ParameterSpec& spec) const;

  CheckpointSource floats_;
  nlohmann::json config_;
  const PackedFormat* format_ = nullptr;
  SchemeOf scheme_of_;
};

// Whether config.json says that the model is quantized, and it is not as a publisher quantizes it
// (model/load/published), which we take for a float model. Throws Error (kBadInput) where there is no config.json.
bool is_quantized_by_us(const std::string& directory);

// The source for a model directory: float, as its publisher has quantized it (CheckpointSource), or in one of our
// formats: then quantized layers are dequantized as they are read (to fp32, which holds scale * (q - zero_point)
// exactly enough to round to bf16 as the tuner did). `record` is for a run's float model (CheckpointSource).
std::unique_ptr<TensorSource> open_tensor_source(const std::string& directory, TensorRecord* record = nullptr);

}  // namespace roundtable
