// auto_gptq: what AutoGPTQ wrote first, read by GPTQModel, transformers, vLLM, SGLang and auto-round.
//
// Source: auto-round 0.16.1, export/export_to_autogptq/export.py; GPTQModel 7.3.4, quantization/config.py (keys;
// `dynamic`: "+:REGEX" for settings of their own, "-:REGEX" for layers that stay as they are, matched from the name's
// start) and nn_modules/qlinear/torch.py. The tensors are those of layouts/gptq.h with zero points minus one, and
//
//   NAME.g_idx  int32 [in]   the group of each input; ours are in order (desc_act is false)
#include <fmt/format.h>
#include <torch/types.h>

#include <memory>

#include "base/error.h"
#include "export/formats/scheme_keys.h"
#include "export/layouts/gptq.h"
#include "export/reader_names.h"
#include "export/registry.h"

namespace roundtable {
namespace {

// Matches exactly this name.
std::string regex_for(const std::string& layer) {
  std::string text = "^";
  for (const char c : layer) text += c == '.' ? std::string("\\.") : std::string(1, c);
  return text + "$";
}

torch::Tensor group_index(std::int64_t in, const QuantScheme& scheme) {
  return torch::arange(in, torch::kInt32).div(scheme.group_columns(in), "floor").to(torch::kInt32);
}

TensorSpec index_spec(const LinearSpec& linear) { return {linear.name + ".g_idx", torch::kInt32, {linear.in}}; }

class AutoGptq final : public GptqFormat {
 public:
  AutoGptq() : GptqFormat(/*zero_offset=*/1) {}

  // vLLM 055e47c2, quantization/utils/gptq_utils.py: get_dynamic_override looks for a rule under the fused name
  // ("qkv_proj", "mlp.experts"), which the rule of one layer never matches. is_layer_gptq_quantized finds by the
  // tensors that all parts are in 16 bits; get_moe_quant_method (auto_gptq.py) does not ask it.
  FusedReading fused_reading(const FusedLayer& layer) const override {
    const bool found = layer.all(layer.common) || (layer.in_16_bits() && layer.parts_per_expert == 0);
    return found ? FusedReading::kRight : FusedReading::kMisread;
  }

  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme,
                                 torch::ScalarType float_type) const override {
    std::vector<TensorSpec> specs = GptqFormat::layout(linear, scheme, float_type);
    specs.push_back(index_spec(linear));
    return specs;
  }
  std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                torch::ScalarType float_type) const override {
    std::vector<NamedTensor> tensors = GptqFormat::pack(linear, weight, float_type);
    tensors.push_back({index_spec(linear).name, group_index(linear.in, weight.scheme)});
    return tensors;
  }
  QuantizedWeight unpack(const TensorReader& reader, const LinearSpec& linear,
                         const QuantScheme& scheme) const override {
    if (!torch::equal(reader.read_tensor(index_spec(linear)), group_index(linear.in, scheme))) {
      throw bad_input(fmt::format("{}: tensor '{}'", reader.place, index_spec(linear).name),
                      "puts inputs in groups out of order (desc_act), which cannot be read");
    }
    return GptqFormat::unpack(reader, linear, scheme);
  }

  nlohmann::json quantization_config(const CheckpointScheme& checkpoint, const CheckpointModel& model) const override {
    nlohmann::json config = {
        {"quant_method", "gptq"},  {"checkpoint_format", "gptq"}, {"pack_dtype", "int32"}, {"desc_act", false},
        {"static_groups", false},  {"true_sequential", false},    {"damp_percent", 0.01},  {"lm_head", false},
        {"provider", "roundtable"}};
    config.update(scheme_json(checkpoint.common));
    const ReaderNames names(model, checkpoint);
    for (const NamedLayer& layer : names.layers()) {
      const std::string regex = layer.pattern.empty() ? regex_for(layer.name) : layer.pattern;
      if (!layer.scheme) {
        config["dynamic"]["-:" + regex] = nlohmann::json::object();
      } else if (layer.outside_blocks || !differing(*layer.scheme, checkpoint.common).empty()) {
        config["dynamic"]["+:" + regex] = scheme_json(*layer.scheme);
      }
      if (layer.outside_blocks) config["lm_head"] = true;
    }
    for (const std::string& part : names.other_parts()) {
      config["dynamic"]["-:" + ReaderNames::pattern_of_part(part)] = nlohmann::json::object();
    }
    return config;
  }
  std::vector<std::string> config_files() const override { return {"quantize_config.json"}; }

  bool owns(const nlohmann::json& config) const override {
    return config.value("quant_method", nlohmann::json()) == "gptq" &&
           config.value("checkpoint_format", nlohmann::json("gptq")) == "gptq";
  }
  SchemeOf read_schemes(const nlohmann::json& config, const std::string& place) const override {
    const JsonObject json(config, place + ": quantization_config");
    const QuantScheme common = read_common_scheme(json);
    const auto settings = std::make_shared<LayerSettings>(common, json.place() + ": dynamic");
    if (json.has("dynamic")) {
      const JsonObject dynamic = json.get_object("dynamic");
      for (const auto& [key, keys] : dynamic.json().items()) {
        if (key.starts_with("-:")) continue;
        const std::string regex = key.starts_with("+:") ? key.substr(2) : key;
        settings->add(key, regex.starts_with("^") ? regex : "^(?:" + regex + ")",
                      read_scheme(dynamic.get_object(key), common));
      }
    }
    return [settings](const std::string& layer) { return settings->of(layer); };
  }
};

}  // namespace

const CheckpointFormat& auto_gptq_format() {
  static const AutoGptq format;
  return format;
}

}  // namespace roundtable
