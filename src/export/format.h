// A checkpoint format, as the rest of the program sees it. One file per format; README.md says how to add one.
//
// All formats are made from the same integers, scales and zero points. A format says beforehand what it cannot hold,
// and it reads back what it wrote.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "export/fused_layer.h"
#include "export/layer_tensors.h"
#include "export/checkpoint_model.h"
#include "quant/fake_quant.h"

namespace roundtable {

// A layer, and how it is quantized. Without a scheme it stays in 16 bits.
struct LayerScheme {
  LinearSpec linear;  // its name is the full one
  std::optional<QuantScheme> scheme;
  bool outside_blocks = false;  // lm_head
};

// A checkpoint as a whole.
struct CheckpointScheme {
  QuantScheme common;                 // what most layers have
  std::optional<std::int64_t> iters;  // of tuning; nothing if the source of a conversion does not say it
  std::vector<LayerScheme> layers;    // every linear layer of every block, and lm_head where it is quantized
  std::vector<std::string> carried_over = {};  // tensors of other parts of the model, such as a vision tower
};

// The scheme of a quantized layer, as a checkpoint's config gives it.
using SchemeOf = std::function<QuantScheme(const std::string& layer)>;

class CheckpointFormat {
 public:
  virtual ~CheckpointFormat() = default;

  // As output.formats and the table (registry.h) name it.
  std::string_view name() const;

  virtual bool has_place_for(WeightType type) const { return type == WeightType::kInt; }

  // Each says in words for the user why this format cannot hold something, or nothing if it can: a scheme (bits, group
  // size, asymmetry); a layer, which then stays in 16 bits; a model, or a mixture of schemes.
  virtual std::optional<std::string> scheme_obstacle(const QuantScheme& scheme) const = 0;
  virtual std::optional<std::string> layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const = 0;
  virtual std::optional<std::string> checkpoint_obstacle(const CheckpointModel& model,
                                                         const CheckpointScheme& checkpoint) const;
  // The same for a model that it cannot hold in any scheme; asked first.
  virtual std::optional<std::string> model_obstacle(const CheckpointModel& model) const;
  // The same for the files next to the weights, such as a tokenizer. Throws Error (kBadInput) if one cannot be read.
  virtual std::optional<std::string> directory_obstacle(const std::string& directory) const;
  // Bytes of a quantized layer in a file, without its bias. `float_type` is what the model's own weights are stored in.
  virtual std::uint64_t layer_bytes(const LinearSpec& linear, const QuantScheme& scheme,
                                    torch::ScalarType float_type) const = 0;
  // Why one of a layer's numbers would not be finite as the format stores it: a scale, or what the format makes of
  // scale and zero point; nothing if all are. `columns` are the layer's inputs.
  virtual std::optional<std::string> number_obstacle(const QuantScheme& scheme, std::int64_t columns,
                                                     const GroupScales& scales) const;
  // What vLLM and SGLang make of a layer that they fuse.
  virtual FusedReading fused_reading(const FusedLayer&) const { return FusedReading::kRight; }
  // The least zero point of an asymmetric group that the format can hold.
  virtual int min_zero_point() const { return 0; }
};

// A format whose tensors lie in safetensors files, in a directory as Hugging Face lays it out.
class SafetensorsFormat : public CheckpointFormat {
 public:
  std::uint64_t layer_bytes(const LinearSpec& linear, const QuantScheme& scheme,
                            torch::ScalarType float_type) const final;

  // The type that a quantized layer's bias is stored in; nothing: the model's own float type.
  virtual std::optional<torch::ScalarType> bias_type() const { return std::nullopt; }

  // Whether experts that the model holds as one tensor are one here too (expert_layers.h).
  virtual bool keeps_stacks() const { return false; }

  // The tensors of a quantized layer, without its bias, in the order of pack(). It is no part of a stack: callers take
  // stacks apart (expert_layers.h). `float_type` is what the model's own
  // weights are stored in.
  virtual std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme,
                                         torch::ScalarType float_type) const = 0;
  virtual std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                        torch::ScalarType float_type) const = 0;
  // Whether what `reader` finds of the layer is `weight`, bit for bit. Throws Error (kBadInput) if it cannot be read.
  virtual bool holds(const TensorReader& reader, const LinearSpec& linear, const QuantizedWeight& weight,
                     torch::ScalarType float_type) const = 0;

  // config.json's `quantization_config`; null for none.
  virtual nlohmann::json quantization_config(const CheckpointScheme& checkpoint, const CheckpointModel& model) const = 0;
  // Files next to config.json that hold the same object, for readers that look there.
  virtual std::vector<std::string> config_files() const { return {}; }
};

// A format that holds integers, so that other formats can be made from it.
class PackedFormat : public SafetensorsFormat {
 public:
  // Whether a quantization_config is this format's.
  virtual bool owns(const nlohmann::json& quantization_config) const = 0;
  // Throws Error (kBadInput), opened by `place`, if a value makes no sense.
  virtual SchemeOf read_schemes(const nlohmann::json& quantization_config, const std::string& place) const = 0;
  // The inverse of pack(). Throws Error (kBadInput) if a tensor is missing, or its shape, type or values do not fit.
  virtual QuantizedWeight unpack(const TensorReader& reader, const LinearSpec& linear,
                                 const QuantScheme& scheme) const = 0;

  // Whether home_of() returns this format: of the formats that hold such weights, the one with the fewest conditions.
  virtual bool is_home_of(WeightType) const { return false; }

  bool holds(const TensorReader& reader, const LinearSpec& linear, const QuantizedWeight& weight,
             torch::ScalarType float_type) const final;
};

// Why a format cannot hold a checkpoint, with the layer at which it fails; nothing if it can.
std::optional<std::string> obstacle(const CheckpointFormat& format, const CheckpointModel& model,
                                    const CheckpointScheme& checkpoint);

// The obstacle of numbers that are to be stored in fp16, where one is too large; `what` they are opens the text.
std::optional<std::string> fp16_obstacle(const char* what, const torch::Tensor& numbers);

// The obstacle of a layer whose input dimension the group size does not divide; nothing if it does.
std::optional<std::string> group_size_obstacle(const LinearSpec& linear, const QuantScheme& scheme);

// The scales of a layer, read in fp16. Throws Error (kBadInput) if one is not finite.
torch::Tensor read_scales(const TensorReader& reader, const TensorSpec& spec);

}  // namespace roundtable
