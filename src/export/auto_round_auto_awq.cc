// auto_round:auto_awq: AWQ's tensors under auto-round's config, so that layers may have schemes of their own.
//
// Source: auto-round 0.16.1, export/export_to_autoround/export.py (dynamic_import_quant_linear_for_packing: awq) and
// inference/backend.py (AWQ_FORMAT: 4 bits).
#include "export/auto_round_config.h"
#include "export/awq_layout.h"
#include "export/formats.h"

namespace roundtable {
namespace {

class AutoRoundAutoAwq final : public PackedFormat {
 public:
  std::string_view name() const override { return "auto_round:auto_awq"; }
  std::optional<std::string> scheme_obstacle(const QuantScheme& scheme) const override {
    return awq_scheme_obstacle(scheme);
  }
  std::optional<std::string> layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const override {
    return awq_layer_obstacle(linear, scheme);
  }
  std::optional<torch::ScalarType> bias_type() const override { return torch::kFloat16; }

  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme,
                                 torch::ScalarType) const override {
    return awq_layout(linear, scheme);
  }
  std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                torch::ScalarType) const override {
    return awq_pack(linear.name, weight);
  }
  QuantizedWeight unpack(const TensorReader& reader, const LinearSpec& linear,
                         const QuantScheme& scheme) const override {
    return awq_unpack(reader, linear, scheme);
  }

  nlohmann::json quantization_config(const CheckpointScheme& checkpoint, const ModelConfig& model) const override {
    return auto_round_config(name(), checkpoint, model);
  }
  std::vector<std::string> config_files() const override { return {"quantization_config.json"}; }
  bool owns(const nlohmann::json& config) const override { return is_auto_round_config(config, name()); }
  SchemeOf read_schemes(const nlohmann::json& config, const std::string& place) const override {
    return read_auto_round_config(config, place);
  }
};

}  // namespace

const PackedFormat& auto_round_auto_awq_format() {
  static const AutoRoundAutoAwq format;
  return format;
}

}  // namespace roundtable
