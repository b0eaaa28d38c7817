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

  bool is_quantized(const LinearSpec& linear) const;  // by its full name
  QuantScheme scheme_of(const std::string& layer) const { return scheme_of_(layer); }
  QuantizedWeight read(const LinearSpec& linear) const;

 private:
  CheckpointSource floats_;
  nlohmann::json config_;
  const PackedFormat* format_ = nullptr;
  SchemeOf scheme_of_;
};

// The source for a model directory: float, as its publisher has quantized it (CheckpointSource), or in one of our
// formats: then quantized layers are dequantized as they are read (to fp32, which holds scale * (q - zero_point)
// exactly enough to round to bf16 as the tuner did). `record` is for a run's float model (CheckpointSource).
std::unique_ptr<TensorSource> open_tensor_source(const std::string& directory, TensorRecord* record = nullptr);

}  // namespace roundtable
