// The table of formats.
#include "export/format.h"

#include <fmt/ranges.h>
#include <torch/types.h>

#include <algorithm>

#include "base/error.h"
#include "base/nearest.h"
#include "export/formats/formats.h"
#include "io/printable.h"

namespace roundtable {

std::optional<std::string> CheckpointFormat::checkpoint_obstacle(const ModelConfig&, const CheckpointScheme&) const {
  return std::nullopt;
}

std::optional<std::string> CheckpointFormat::directory_obstacle(const std::string&) const { return std::nullopt; }

bool PackedFormat::holds(const TensorReader& reader, const LinearSpec& linear, const QuantizedWeight& weight,
                         torch::ScalarType) const {
  const QuantizedWeight read = unpack(reader, linear, weight.scheme);
  return torch::equal(read.q, weight.q.cpu()) && torch::equal(read.scale, weight.scale.cpu()) &&
         torch::equal(read.zero_point, weight.zero_point.cpu());
}

const std::vector<const CheckpointFormat*>& checkpoint_formats() {
  static const std::vector<const CheckpointFormat*> formats = {
      &auto_round_auto_gptq_format(), &auto_round_format(), &auto_round_auto_awq_format(), &auto_gptq_format(),
      &auto_awq_format(),             &llm_compressor_format(), &mxfp4_format(),
      &nvfp4_format(),                &gguf_format(),       &qdq_format()};
  return formats;
}

std::vector<const PackedFormat*> packed_formats() {
  std::vector<const PackedFormat*> packed;
  for (const CheckpointFormat* format : checkpoint_formats()) {
    if (const PackedFormat* one = as_packed(*format)) packed.push_back(one);
  }
  return packed;
}

const CheckpointFormat& format_named(std::string_view name, std::string_view place) {
  std::vector<std::string> known;
  for (const CheckpointFormat* format : checkpoint_formats()) {
    if (format->name() == name) return *format;
    known.emplace_back(format->name());
  }
  throw bad_input(place, fmt::format("'{}' is not a format", printable(name)),
                  fmt::format("{}formats: {}", did_you_mean(nearest(name, known)), fmt::join(known, ", ")));
}

const PackedFormat* as_packed(const CheckpointFormat& format) { return dynamic_cast<const PackedFormat*>(&format); }

const PackedFormat& home_of(WeightType type) {
  const std::vector<const PackedFormat*> packed = packed_formats();
  const auto home =
      std::find_if(packed.begin(), packed.end(), [&](const auto* format) { return format->is_home_of(type); });
  RT_CHECK(home != packed.end());
  return **home;
}

std::string names_of(const std::vector<const CheckpointFormat*>& formats) {
  std::vector<std::string_view> names;
  for (const CheckpointFormat* format : formats) names.push_back(format->name());
  return fmt::format("{}", fmt::join(names, ", "));
}

std::optional<std::string> obstacle(const CheckpointFormat& format, const ModelConfig& model,
                                    const CheckpointScheme& checkpoint) {
  for (const LayerScheme& layer : checkpoint.layers) {
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

void refuse_obstacle(const std::string& place, const CheckpointFormat& format, const ModelConfig& model,
                     const CheckpointScheme& checkpoint) {
  const std::optional<std::string> reason = obstacle(format, model, checkpoint);
  if (!reason) return;
  std::vector<const CheckpointFormat*> others;
  for (const CheckpointFormat* other : checkpoint_formats()) {
    if (!obstacle(*other, model, checkpoint)) others.push_back(other);
  }
  throw bad_input(place, fmt::format("{} cannot hold this: {}", format.name(), *reason),
                  "formats that can: " + names_of(others));
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
