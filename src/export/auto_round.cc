// auto_round, which transformers (with auto-round), vLLM and SGLang read: asym on every device, zero points of 0 too.
//
// Source: auto-round 0.16.1, auto_round_extension/torch/qlinear_torch.py (zero points are stored as they are) and
// inference/backend.py (GPTQ_FORMAT_NO_ZP).
#include "export/auto_round_config.h"
#include "export/formats.h"
#include "export/gptq_layout.h"

namespace roundtable {
namespace {

class AutoRound final : public PackedFormat {
 public:
  std::string_view name() const override { return "auto_round"; }
  std::optional<std::string> scheme_obstacle(const QuantScheme&) const override { return std::nullopt; }
  std::optional<std::string> layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const override {
    return layout_.layer_obstacle(linear, scheme);
  }
  std::optional<torch::ScalarType> bias_type() const override { return torch::kFloat16; }

  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme,
                                 torch::ScalarType) const override {
    return layout_.layout(linear, scheme);
  }
  std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                torch::ScalarType) const override {
    return layout_.pack(linear.name, weight);
  }
  QuantizedWeight unpack(const TensorReader& reader, const LinearSpec& linear,
                         const QuantScheme& scheme) const override {
    return layout_.unpack(reader, linear, scheme);
  }

  nlohmann::json quantization_config(const CheckpointScheme& checkpoint, const ModelConfig& model) const override {
    return auto_round_config(name(), checkpoint, model);
  }
  // vLLM and older readers look there.
  std::vector<std::string> config_files() const override { return {"quantization_config.json"}; }
  bool owns(const nlohmann::json& config) const override { return is_auto_round_config(config, name()); }
  SchemeOf read_schemes(const nlohmann::json& config, const std::string& place) const override {
    return read_auto_round_config(config, place);
  }

 private:
  GptqLayout layout_{/*zero_offset=*/0};
};

}  // namespace

const PackedFormat& auto_round_format() {
  static const AutoRound format;
  return format;
}

}  // namespace roundtable
