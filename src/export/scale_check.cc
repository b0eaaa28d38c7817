// The scales that tuning starts from, shown to each format.
#include "export/scale_check.h"

#include <fmt/format.h>
#include <torch/types.h>

#include <utility>

#include "base/error.h"

namespace roundtable {

ScaleCheck::ScaleCheck(const CheckpointScheme& checkpoint, std::vector<const CheckpointFormat*> formats)
    : formats_(std::move(formats)) {
  for (const LayerScheme& layer : checkpoint.layers) {
    // Scales of floats are powers of two and products of E4M3 and a global scale, which reach every float.
    if (!layer.scheme || layer.scheme->type != WeightType::kInt) continue;
    const ParameterSpec weight = layer.linear.weight();
    layers_[weight.name] = {weight, *layer.scheme};
  }
}

std::vector<ParameterSpec> ScaleCheck::weights() const {
  std::vector<ParameterSpec> weights;
  for (const auto& [name, layer] : layers_) weights.push_back(layer.weight);
  return weights;
}

void ScaleCheck::operator()(const std::string& tensor, const torch::Tensor& weight) const {
  const auto found = layers_.find(tensor);
  if (found == layers_.end()) return;
  QuantScheme scheme = found->second.scheme;
  scheme.fp16_scale = false;  // so that the message has a number
  GroupScales scales = nearest_scales(weight, scheme);
  // Zero points are tuned too: -wmin / scale rounds up by at most a half.
  if (!scheme.symmetric) scales.zero_point += 1;
  for (const CheckpointFormat* format : formats_) {
    const auto reason = format->number_obstacle(scheme, weight.size(1), scales);
    if (!reason) continue;
    throw make_error(
        ExitCode::kNumeric, fmt::format("layer '{}'", tensor.substr(0, tensor.rfind('.'))),
        fmt::format("its largest weight is {:g}: {} ({})", weight.abs().amax().item<float>(), *reason, format->name()),
        "check the model, or keep the layer in 16 bits (quantization.ignore_layers)");
  }
}

}  // namespace roundtable
