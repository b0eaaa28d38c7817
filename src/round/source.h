// A float checkpoint, or one that its publisher has quantized, as the source of a rounded one: each matrix is read,
// rounded and forgotten.
#pragma once

#include <torch/types.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "convert/source.h"
#include "export/scale_check.h"
#include "model/load/tensor_source.h"
#include "plan/rules/layer_rules.h"

namespace roundtable {

class RoundedSource final : public ConversionSource {
 public:
  // Reads headers alone. Matrices are rounded on `device`. Throws Error (kBadInput) as name_model() and
  // choose_schemes() do.
  RoundedSource(const Config& config, const Formats& formats, torch::Device device);

  // Weights of nv_fp share a scale over all quantized layers of a block, as quantize has it, so that layers which
  // engines fuse have one. To be called before any of them is read; reads them all. Does nothing for other types.
  // Collective.
  void find_global_scales(HostCommunicator& world);

  const std::vector<std::string>& float_reasons() const { return float_reasons_; }
  std::int64_t tensors() const { return static_cast<std::int64_t>(source_.checkpoint().names().size()); }
  std::int64_t files() const;
  std::int64_t bytes() const { return static_cast<std::int64_t>(source_.checkpoint().total_bytes()); }
  std::int64_t rounded_weights() const;
  std::int64_t largest_matrix() const;  // in weights

  std::string file_of(const std::string& name) const override;
  // Throws Error (kNumeric) for a weight that is not finite, and where a scale would not be in one of the formats.
  QuantizedWeight read_layer(const LinearSpec& layer, const CheckpointFormat& format) const override;
  torch::Tensor read_plain(const TensorSpec& tensor) const override;
  torch::Tensor read_floats(const ParameterSpec& spec) const override;

 private:
  void find_plain(const std::vector<std::pair<LinearSpec, std::vector<StoredTensor>>>& published);
  torch::Tensor read_weight(const LinearSpec& layer) const;
  QuantizedWeight rounded(const LinearSpec& layer) const;

  bool search_;
  torch::Device device_;
  mutable TensorRecord record_;  // finds a model that is exchanged meanwhile, and large weights
  CheckpointSource source_;
  std::vector<std::string> float_reasons_;
  std::unique_ptr<ScaleCheck> scale_check_;
  std::map<std::string, QuantScheme> schemes_;      // of quantized layers, by name
  std::map<std::string, std::string> origins_;      // of layers: the tensor with their weight
  std::map<std::string, std::vector<ParameterSpec>> published_;  // plain tensors that are dequantized: of their experts
};

}  // namespace roundtable
