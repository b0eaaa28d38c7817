// Opening a quantized model directory.
#include "export/quantized_checkpoint.h"

#include <torch/types.h>

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "export/expert_layers.h"
#include "export/registry.h"
#include "io/json_file.h"

namespace roundtable {
namespace {

const PackedFormat& format_of(const JsonObject& config) {
  std::vector<const CheckpointFormat*> known;
  for (const PackedFormat* format : packed_formats()) {
    if (format->owns(config.json())) return *format;
    known.push_back(format);
  }
  throw bad_input(config.place() + ": quantization_config", "is of a format that cannot be read",
                  "formats that can be read: " + names_of(known));
}

class QuantizedSource final : public TensorSource {
 public:
  explicit QuantizedSource(const std::string& directory) : checkpoint_(directory) {}

  torch::Tensor read(const ParameterSpec& spec) const override { return checkpoint_.read_floats(spec); }

  bool contains(const std::string& name) const override { return checkpoint_.floats().contains(name); }

 private:
  QuantizedCheckpoint checkpoint_;
};

// Whether a format of ours owns the config, and a layer's tensors have the types that it writes. config.json alone cannot
// tell: Kimi K2 has scales in BF16 and shapes in I32, and the same config as ours.
bool is_written_by_us(const std::string& directory, const JsonObject& config) {
  if (!config.has("quantization_config") || !config.json()["quantization_config"].is_object()) return false;
  const nlohmann::json& quantization = config.json()["quantization_config"];
  if (std::ranges::none_of(packed_formats(), [&](const PackedFormat* format) { return format->owns(quantization); })) {
    return false;
  }
  constexpr std::string_view kShape = ".weight_shape";
  const Checkpoint checkpoint(directory);
  const auto names = checkpoint.names();
  const auto shape = std::ranges::find_if(names, [&](const std::string& name) { return name.ends_with(kShape); });
  if (shape == names.end()) return true;
  const std::string scale = shape->substr(0, shape->size() - kShape.size()) + ".weight_scale";
  return checkpoint.info(*shape).type == ElementType::kI64 && checkpoint.contains(scale) &&
         checkpoint.info(scale).type == ElementType::kF16;
}

}  // namespace

QuantizedCheckpoint::QuantizedCheckpoint(const std::string& directory) : floats_(directory) {
  const std::string place = directory + "/config.json";
  const JsonObject json = JsonObject::load(place);
  config_ = json.json();
  if (!json.has("quantization_config")) {
    throw bad_input(place, "has no quantization_config: this model is not quantized");
  }
  const JsonObject config = json.get_object("quantization_config");
  format_ = &format_of(config);
  scheme_of_ = format_->read_schemes(config.json(), place);
}

QuantScheme QuantizedCheckpoint::scheme_of(const LinearSpec& linear) const {
  return scheme_of_(parts_of(linear).front().linear.name);
}

bool QuantizedCheckpoint::is_quantized(const LinearSpec& linear) const {
  return checkpoint().contains(layout_of(*format_, linear, scheme_of(linear), torch::kFloat32).front().name);
}

torch::Tensor QuantizedCheckpoint::read_floats(const ParameterSpec& spec) const {
  constexpr std::string_view kWeight = ".weight";
  if (floats_.contains(spec.tensor())) return floats_.read(spec);
  if (!spec.name.ends_with(kWeight) || spec.shape.size() != 2) return read_biases(spec);
  LinearSpec linear{spec.name.substr(0, spec.name.size() - kWeight.size()), spec.shape[0], spec.shape[1],
                    spec.transposed};
  linear.stack = spec.stack;
  if (is_quantized(linear)) return dequantize(read(linear), torch::kFloat32);
  if (!linear.stack) return floats_.read(spec);
  std::vector<torch::Tensor> rows;
  for (const LayerPart& part : parts_of(linear)) rows.push_back(floats_.read(part.linear.weight()));
  return torch::cat(rows);
}

// Of all experts, where the checkpoint holds them one by one; any other tensor as it is.
torch::Tensor QuantizedCheckpoint::read_biases(const ParameterSpec& spec) const {
  const std::vector<BiasPart> parts = parts_of_biases(spec);
  if (parts.empty()) return floats_.read(spec);
  std::vector<torch::Tensor> rows;
  for (const BiasPart& bias : parts) rows.push_back(floats_.read({bias.name, {bias.part.linear.out}}));
  return torch::cat(rows).view(spec.shape);
}

QuantizedWeight QuantizedCheckpoint::read(const LinearSpec& linear) const {
  const QuantScheme scheme = scheme_of(linear);
  if (scheme.bits == 16) {
    throw bad_input(linear.name, "is packed, and quantization_config says that it is not quantized");
  }
  const std::string first = layout_of(*format_, linear, scheme, torch::kFloat32).front().name;
  return unpack_parts(*format_, reader_of(checkpoint(), first), linear, scheme);
}

// compressed-tensors is a format of ours, and publishers use it too: then its tensors have other types than ours.
bool is_quantized_by_us(const std::string& directory) {
  const JsonObject json = JsonObject::load(directory + "/config.json");
  if (!json.has("quantization_config")) return false;
  return !published_method(directory).has_value() || is_written_by_us(directory, json);
}

std::unique_ptr<TensorSource> open_tensor_source(const std::string& directory, TensorRecord* record) {
  // A run that keeps a record of its model reads a published one, whoever has written it.
  const bool published = record != nullptr && published_method(directory).has_value();
  if (published || !is_quantized_by_us(directory)) return std::make_unique<CheckpointSource>(directory, record);
  return std::make_unique<QuantizedSource>(directory);
}

}  // namespace roundtable
