// auto_awq: AutoAWQ's checkpoints, version gemm, read by transformers (with GPTQModel), vLLM and SGLang.
//
// Source: auto-round 0.16.1, export/export_to_awq/export.py; transformers 5.23, utils/quantization_config.py,
// AwqConfig. One scheme for all layers that are quantized; the others are listed in modules_to_not_convert: vLLM and
// SGLang look for these anywhere in a name (is_layer_skipped), transformers at its start and its end
// (quantizers_utils.py, should_convert_module).
// `zero_point` says that the file holds zero points, which it does for sym too: readers that believe otherwise would
// take the integers for signed.
#include "export/formats/scheme_keys.h"
#include "export/layouts/awq.h"
#include "export/reader_names.h"
#include "export/registry.h"

namespace roundtable {
namespace {

class AutoAwq final : public AwqFormat {
 public:
  std::optional<std::string> checkpoint_obstacle(const CheckpointModel&,
                                                 const CheckpointScheme& checkpoint) const override {
    for (const LayerScheme& layer : checkpoint.layers) {
      if (layer.scheme && !differing(*layer.scheme, checkpoint.common).empty()) {
        return "it holds one scheme for all layers, and " + layer.linear.name + " has its own";
      }
      if (layer.scheme && layer.outside_blocks) return "it cannot hold a quantized " + layer.linear.name;
    }
    return std::nullopt;
  }

  // vLLM 0043d6b5, quantization/utils/quant_utils.py, is_layer_skipped: "All shards of fused layers to have the
  // same precision". Of experts it looks for the fused name ("mlp.experts"), which no single layer's matches.
  FusedReading fused_reading(const FusedLayer& layer) const override {
    if (layer.parts_per_expert > 0) return layer.some_in_16_bits() ? FusedReading::kMisread : FusedReading::kRight;
    return layer.alike() ? FusedReading::kRight : FusedReading::kRefused;
  }

  nlohmann::json quantization_config(const CheckpointScheme& checkpoint, const CheckpointModel& model) const override {
    nlohmann::json config = {
        {"quant_method", "awq"}, {"version", "gemm"}, {"zero_point", true}, {"provider", "roundtable"}};
    config.update(scheme_json(checkpoint.common));
    const ReaderNames names(model, checkpoint);
    nlohmann::json& kept = config["modules_to_not_convert"];
    kept = nlohmann::json::array({names.ending_of(model.head_layer)});
    for (const NamedLayer& layer : names.layers()) {
      if (!layer.scheme) kept.push_back(names.ending_of(layer.name));
    }
    for (const std::string& part : names.other_parts()) {
      kept.push_back(part);
      kept.push_back("model." + part);
    }
    return config;
  }

  bool owns(const nlohmann::json& config) const override {
    return config.value("quant_method", nlohmann::json()) == "awq" &&
           config.value("version", nlohmann::json("gemm")) == "gemm";
  }
  SchemeOf read_schemes(const nlohmann::json& config, const std::string& place) const override {
    const JsonObject json(config, place + ": quantization_config");
    nlohmann::json keys = config;
    if (!json.has("sym")) keys["sym"] = !json.get_bool_or("zero_point", true);
    const QuantScheme scheme = read_common_scheme(JsonObject(keys, json.place()));
    return [scheme](const std::string&) { return scheme; };
  }
};

}  // namespace

const CheckpointFormat& auto_awq_format() {
  static const AutoAwq format;
  return format;
}

}  // namespace roundtable
