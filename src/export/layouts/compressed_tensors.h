// What the formats of compressed-tensors have in common: how config.json says which layers are quantized, and how.
//
// Source: compressed-tensors 0.20.0, quantization/quant_config.py and quant_args.py (keys). Layers are targets by
// class, by name, or by a regular expression after "re:", matched from the name's start. Inside this folder.
#pragma once

#include <string>

#include "export/format.h"
#include "io/json_file.h"

namespace roundtable {

class CompressedTensorsFormat : public PackedFormat {
 public:
  std::optional<std::string> layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const override;
  std::optional<std::string> checkpoint_obstacle(const CheckpointModel& model, const CheckpointScheme&) const override;
  FusedReading fused_reading(const FusedLayer& layer) const override;
  nlohmann::json quantization_config(const CheckpointScheme& checkpoint, const CheckpointModel& model) const override;
  bool owns(const nlohmann::json& config) const override;
  SchemeOf read_schemes(const nlohmann::json& config, const std::string& place) const override;

 protected:
  // `format` as compressed-tensors names it: "pack-quantized".
  explicit CompressedTensorsFormat(std::string format) : format_(std::move(format)) {}

  // The quantization arguments of weights, and their inverse, which throws Error (kBadInput) where they are not these.
  virtual nlohmann::json weights_json(const QuantScheme& scheme) const = 0;
  virtual QuantScheme read_weights(const JsonObject& weights) const = 0;

 private:
  std::string format_;
};

}  // namespace roundtable
