// llm_compressor: compressed-tensors, format pack-quantized, which vLLM, SGLang and transformers read.
//
// Source: compressed-tensors 0.20.0, compressors/pack_quantized/base.py and helpers.py (pack_to_int32, a dense stream of
// bits), quantization/quant_config.py and quant_args.py (keys). Per linear layer [out, in]:
//
//   NAME.weight_packed      int32 [out, in * bits / 32]      the integers, packed along the input dimension
//   NAME.weight_scale       fp16  [out, groups]
//   NAME.weight_shape       int64 [2]                        out, in
//   NAME.weight_zero_point  int32 [out * bits / 32, groups]  asym alone, packed down the output dimension
//
// Both packed dimensions are rounded up to whole words. Integers are signed there and stored with 2^(bits-1) added,
// which makes them ours; sym has no zero point, and ours is that 2^(bits-1).
//
// Layers are targets by class, by name, or by a regular expression after "re:", matched from the name's start.
// Engines load the scales in the type that they compute in: fp16 keeps them, bf16 rounds them to 8 bits.
#include <fmt/format.h>
#include <torch/torch.h>

#include <map>
#include <memory>

#include "base/error.h"
#include "export/formats.h"
#include "export/scheme_keys.h"
#include "quant/packing.h"

namespace roundtable {
namespace {

constexpr const char* kClass = "Linear";

nlohmann::json group_json(const QuantScheme& scheme, const nlohmann::json& targets) {
  nlohmann::json weights = {{"num_bits", scheme.bits}, {"type", "int"}, {"symmetric", scheme.symmetric},
                            {"strategy", scheme.group_size < 0 ? "channel" : "group"}, {"dynamic", false}};
  if (scheme.group_size > 0) weights["group_size"] = scheme.group_size;
  return {{"targets", targets}, {"weights", weights}, {"input_activations", nullptr},
          {"output_activations", nullptr}, {"format", "pack-quantized"}};
}

QuantScheme read_group(const JsonObject& group) {
  const JsonObject weights = group.get_object("weights");
  if (weights.get_string_or("type", "int") != "int") weights.fail("type", "is not int");
  nlohmann::json keys = {{"bits", weights.get_int("num_bits", 2, 8)}, {"sym", weights.get_bool_or("symmetric", true)},
                         {"group_size", -1}};
  const std::string strategy = weights.get_string("strategy");
  if (strategy == "group") {
    keys["group_size"] = weights.get_int("group_size", 1, 1 << 24);
  } else if (strategy != "channel") {
    weights.fail("strategy", "is neither group nor channel");
  }
  return read_common_scheme(JsonObject(keys, group.place()));
}

class LlmCompressor final : public PackedFormat {
 public:
  std::string_view name() const override { return "llm_compressor"; }
  std::optional<std::string> scheme_obstacle(const QuantScheme&) const override { return std::nullopt; }
  std::optional<std::string> layer_obstacle(const LinearSpec& linear, const QuantScheme& scheme) const override {
    if (scheme.group_size <= 0 || linear.in % scheme.group_size == 0) return std::nullopt;
    return fmt::format("group_size {} does not divide its input dimension {}, which readers of this layout need",
                       scheme.group_size, linear.in);
  }
  std::optional<std::string> checkpoint_obstacle(const ModelConfig& model, const CheckpointScheme&) const override {
    // utils/helpers.py: layers are found by the class torch.nn.Linear.
    if (model.conv1d) return "its readers know no Conv1D layers, which " + model.model_type + " is made of";
    return std::nullopt;
  }

  std::vector<TensorSpec> layout(const LinearSpec& linear, const QuantScheme& scheme,
                                 torch::ScalarType) const override {
    const std::int64_t groups = scheme.groups(linear.in);
    std::vector<TensorSpec> specs = {
        {linear.name + ".weight_packed", torch::kInt32, {linear.out, packed_words(linear.in, scheme.bits)}},
        {linear.name + ".weight_scale", torch::kFloat16, {linear.out, groups}},
        {linear.name + ".weight_shape", torch::kInt64, {2}}};
    if (!scheme.symmetric) {
      specs.push_back({linear.name + ".weight_zero_point", torch::kInt32,
                       {packed_words(linear.out, scheme.bits), groups}});
    }
    return specs;
  }

  std::vector<NamedTensor> pack(const LinearSpec& linear, const QuantizedWeight& weight,
                                torch::ScalarType) const override {
    const int bits = weight.scheme.bits;
    std::vector<NamedTensor> tensors = {
        {linear.name + ".weight_packed", pack_rows(weight.q.cpu().t(), bits).t().contiguous()},
        {linear.name + ".weight_scale", weight.scale.cpu().to(torch::kFloat16).contiguous()},
        {linear.name + ".weight_shape", torch::tensor({linear.out, linear.in}, torch::kInt64)}};
    if (!weight.scheme.symmetric) {
      tensors.push_back({linear.name + ".weight_zero_point", pack_rows(weight.zero_point.cpu(), bits)});
    }
    return tensors;
  }

  QuantizedWeight unpack(const TensorReader& reader, const LinearSpec& linear,
                         const QuantScheme& scheme) const override {
    const std::vector<TensorSpec> specs = layout(linear, scheme, torch::kFloat32);
    const torch::Tensor packed = reader.read_tensor(specs[0]);
    if (!torch::equal(reader.read_tensor(specs[2]), torch::tensor({linear.out, linear.in}, torch::kInt64))) {
      throw bad_input(fmt::format("{}: tensor '{}'", reader.place, specs[2].name), "is not the layer's shape");
    }
    const std::int64_t groups = scheme.groups(linear.in);
    const torch::Tensor zeros =
        scheme.symmetric ? torch::full({linear.out, groups}, 1 << (scheme.bits - 1), torch::kUInt8)
                         : unpack_rows(reader.read_tensor(specs[3]), scheme.bits, linear.out);
    return {scheme, unpack_rows(packed.t(), scheme.bits, linear.in).t().contiguous(), read_scales(reader, specs[1]),
            zeros};
  }

  nlohmann::json quantization_config(const CheckpointScheme& checkpoint, const ModelConfig& model) const override {
    std::map<std::string, std::pair<QuantScheme, nlohmann::json>> groups;  // by the scheme's keys
    nlohmann::json ignore = nlohmann::json::array();
    bool head = false;
    for (const LayerScheme& layer : checkpoint.layers) {
      head = head || layer.outside_blocks;
      if (!layer.scheme) {
        ignore.push_back(layer.linear.name);
        continue;
      }
      auto& group = groups[scheme_json(*layer.scheme).dump()];
      group.first = *layer.scheme;
      group.second.push_back(layer.linear.name);
    }
    for (const std::string& name : {model.names.project_in, model.names.project_out}) {
      if (!name.empty()) ignore.push_back(name);
    }
    if (!head) ignore.push_back(model.names.head);
    nlohmann::json config = {{"quant_method", "compressed-tensors"}, {"format", "pack-quantized"},
                             {"quantization_status", "compressed"},  {"kv_cache_scheme", nullptr},
                             {"global_compression_ratio", nullptr},  {"ignore", ignore}};
    for (const auto& [key, group] : groups) {
      const std::string name = fmt::format("group_{}", config.value("config_groups", nlohmann::json::object()).size());
      const nlohmann::json all = nlohmann::json::array({kClass});
      config["config_groups"][name] = group_json(group.first, groups.size() == 1 ? all : group.second);
    }
    return config;
  }

  bool owns(const nlohmann::json& config) const override {
    return config.value("quant_method", nlohmann::json()) == "compressed-tensors" &&
           config.value("format", nlohmann::json()) == "pack-quantized";
  }
  SchemeOf read_schemes(const nlohmann::json& config, const std::string& place) const override {
    const JsonObject groups = JsonObject(config, place + ": quantization_config").get_object("config_groups");
    std::shared_ptr<LayerSettings> settings;
    for (const auto& [name, keys] : groups.json().items()) {  // first what is said of all
      const QuantScheme scheme = read_group(groups.get_object(name));
      const std::vector<std::string> targets = groups.get_object(name).get_strings("targets");
      if (!settings || std::find(targets.begin(), targets.end(), kClass) != targets.end()) {
        settings = std::make_shared<LayerSettings>(scheme);
      }
    }
    if (!settings) groups.fail("group_0", "is missing");
    for (const auto& [name, keys] : groups.json().items()) {
      const QuantScheme scheme = read_group(groups.get_object(name));
      for (const std::string& target : groups.get_object(name).get_strings("targets")) {
        if (target != kClass) settings->add(target, target.starts_with("re:") ? "^(?:" + target.substr(3) + ")" : "^$", scheme);
      }
    }
    return [settings](const std::string& layer) { return settings->of(layer); };
  }
};

}  // namespace

const PackedFormat& llm_compressor_format() {
  static const LlmCompressor format;
  return format;
}

}  // namespace roundtable
