// What formats say unless they say otherwise, and what several of them share.
#include "export/format.h"

#include <fmt/format.h>
#include <torch/types.h>

#include "base/error.h"
#include "export/expert_layers.h"

namespace roundtable {

std::optional<std::string> CheckpointFormat::checkpoint_obstacle(const CheckpointModel&, const CheckpointScheme&) const {
  return std::nullopt;
}

std::optional<std::string> CheckpointFormat::model_obstacle(const CheckpointModel&) const { return std::nullopt; }

std::optional<std::string> CheckpointFormat::directory_obstacle(const std::string&) const { return std::nullopt; }

std::uint64_t SafetensorsFormat::layer_bytes(const LinearSpec& linear, const QuantScheme& scheme,
                                             torch::ScalarType float_type) const {
  std::uint64_t bytes = 0;
  for (const TensorSpec& tensor : layout_of(*this, linear, scheme, float_type)) bytes += tensor.bytes();
  return bytes;
}

std::optional<std::string> CheckpointFormat::number_obstacle(const QuantScheme& scheme, std::int64_t,
                                                             const GroupScales& scales) const {
  if (scheme.type != WeightType::kInt) return std::nullopt;
  return fp16_obstacle("a scale", scales.scale);
}

bool PackedFormat::holds(const TensorReader& reader, const LinearSpec& linear, const QuantizedWeight& weight,
                         torch::ScalarType) const {
  const QuantizedWeight read = unpack(reader, linear, weight.scheme);
  return torch::equal(read.q, weight.q.cpu()) && torch::equal(read.scale, weight.scale.cpu()) &&
         torch::equal(read.zero_point, weight.zero_point.cpu());
}

std::optional<std::string> obstacle(const CheckpointFormat& format, const CheckpointModel& model,
                                    const CheckpointScheme& checkpoint) {
  if (auto reason = format.model_obstacle(model)) return reason;
  for (const LayerScheme& layer : written_layers(checkpoint)) {
    if (!layer.scheme) continue;
    std::optional<std::string> reason;
    if (!format.has_place_for(layer.scheme->type)) {
      reason = fmt::format("it has no place for weights of data_type {}", word_of(layer.scheme->type));
    }
    if (!reason) reason = format.scheme_obstacle(*layer.scheme);
    if (!reason) reason = format.layer_obstacle(layer.linear, *layer.scheme);
    if (reason) return fmt::format("{}: {}", layer.linear.name, *reason);
  }
  return format.checkpoint_obstacle(model, checkpoint);
}

std::optional<std::string> fp16_obstacle(const char* what, const torch::Tensor& numbers) {
  if (numbers.to(torch::kFloat16).isfinite().all().item<bool>()) return std::nullopt;
  return fmt::format("{} of {:g} would be needed, and fp16 ends at 65504", what, numbers.abs().amax().item<float>());
}

std::optional<std::string> group_size_obstacle(const LinearSpec& linear, const QuantScheme& scheme) {
  if (scheme.group_size <= 0 || linear.in % scheme.group_size == 0) return std::nullopt;
  return fmt::format("group_size {} does not divide its input dimension {}, which readers of this layout need",
                     scheme.group_size, linear.in);
}

torch::Tensor read_scales(const TensorReader& reader, const TensorSpec& spec) {
  const torch::Tensor scales = reader.read_tensor(spec);
  if (!scales.isfinite().all().item<bool>()) {
    throw bad_input(fmt::format("{}: tensor '{}'", reader.place, spec.name), "holds a value that is not finite");
  }
  return scales.to(torch::kFloat32);
}

}  // namespace roundtable
