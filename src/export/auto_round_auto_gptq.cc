// auto_round:auto_gptq, which transformers (with auto-round), vLLM and SGLang read.
//
// Source: auto-round 0.16.1, auto_round_extension/torch/qlinear_torch_zp.py: zero points are stored minus one, and the
// reader adds the one again.
#include "export/auto_round_config.h"
#include "export/formats.h"
#include "export/gptq_layout.h"

namespace roundtable {
namespace {

class AutoRoundAutoGptq final : public PackedFormat {
 public:
  std::string_view name() const override { return "auto_round:auto_gptq"; }
  std::optional<std::string> scheme_obstacle(const QuantScheme&) const override { return std::nullopt; }
  std::optional<std::string> layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const override {
    return layout_.layer_obstacle(linear, scheme);
  }
  int min_zero_point() const override { return 1; }
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
  GptqLayout layout_{/*zero_offset=*/1};
};

}  // namespace

const PackedFormat& auto_round_auto_gptq_format() {
  static const AutoRoundAutoGptq format;
  return format;
}

}  // namespace roundtable
