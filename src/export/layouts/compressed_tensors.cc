#include "export/layouts/compressed_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "export/formats/scheme_keys.h"
#include "export/reader_names.h"

namespace roundtable {
namespace {

constexpr const char* kClass = "Linear";

// A target, or what is ignored: a name, or an expression after "re:".
std::string target_of(const std::string& name, const std::string& pattern) {
  return pattern.empty() ? name : "re:" + pattern;
}

}  // namespace

std::optional<std::string> CompressedTensorsFormat::layer_obstacle(const LinearSpec& linear,
                                                                   const QuantScheme& scheme) const {
  return group_size_obstacle(linear, scheme);
}

std::optional<std::string> CompressedTensorsFormat::checkpoint_obstacle(const CheckpointModel& model,
                                                                        const CheckpointScheme& checkpoint) const {
  for (const LayerScheme& layer : checkpoint.layers) {
    if (layer.scheme && layer.linear.stack && layer.linear.stack->by_turns) {
      return fmt::format("no reader of it loads quantized experts of {}, whose rows are gate and up by turns",
                         model.type);  // see expert_layers.cc
    }
  }
  // utils/helpers.py: layers are found by the class torch.nn.Linear.
  for (const LayerScheme& layer : checkpoint.layers) {
    if (layer.linear.transposed && !layer.linear.stack) {
      return "its readers do not know Conv1D layers, which " + model.type + " is made of";
    }
  }
  return std::nullopt;
}

// vLLM 0043d6b5, quantization/compressed_tensors: utils.py, should_ignore_layer refuses a layer with only some
// parts in 16 bits, and _match_fused_layer takes the first part's scheme for all. compressed_tensors_moe.py refuses
// parts of expert 0 that differ, and looks at no other expert.
FusedReading CompressedTensorsFormat::fused_reading(const FusedLayer& layer) const {
  if (layer.alike()) return FusedReading::kRight;
  const bool refused = layer.parts_per_expert > 0 ? !layer.first_expert_is_alike() : layer.some_in_16_bits();
  return refused ? FusedReading::kRefused : FusedReading::kMisread;
}

nlohmann::json CompressedTensorsFormat::quantization_config(const CheckpointScheme& checkpoint,
                                                            const CheckpointModel& model) const {
  std::map<std::string, std::pair<QuantScheme, nlohmann::json>> groups;  // by the scheme's keys
  nlohmann::json ignore = nlohmann::json::array();
  bool head = false;
  const ReaderNames names(model, checkpoint);
  for (const NamedLayer& layer : names.layers()) {
    head = head || layer.outside_blocks;
    if (!layer.scheme) {
      ignore.push_back(target_of(layer.name, layer.pattern));
      continue;
    }
    auto& group = groups[scheme_json(*layer.scheme).dump()];
    group.first = *layer.scheme;
    group.second.push_back(target_of(layer.name, layer.pattern));
  }
  for (const std::string& name : model.outside_linears) ignore.push_back(target_of(name, names.pattern_of(name)));
  if (!head && !model.head_layer.empty()) {
    ignore.push_back(target_of(model.head_layer, names.pattern_of(model.head_layer)));
  }
  for (const std::string& part : names.other_parts()) ignore.push_back("re:" + ReaderNames::pattern_of_part(part));
  nlohmann::json config = {{"quant_method", "compressed-tensors"}, {"format", format_},
                           {"quantization_status", "compressed"},  {"kv_cache_scheme", nullptr},
                           {"global_compression_ratio", nullptr},  {"ignore", ignore}};
  for (const auto& [key, group] : groups) {
    const std::string name = fmt::format("group_{}", config.value("config_groups", nlohmann::json::object()).size());
    const nlohmann::json all = nlohmann::json::array({kClass});
    config["config_groups"][name] = {{"targets", groups.size() == 1 ? all : group.second},
                                     {"weights", weights_json(group.first)},
                                     {"input_activations", nullptr},
                                     {"output_activations", nullptr},
                                     {"format", format_}};
  }
  return config;
}

bool CompressedTensorsFormat::owns(const nlohmann::json& config) const {
  return config.value("quant_method", nlohmann::json()) == "compressed-tensors" &&
         config.value("format", nlohmann::json()) == format_;
}

SchemeOf CompressedTensorsFormat::read_schemes(const nlohmann::json& config, const std::string& place) const {
  const JsonObject groups = JsonObject(config, place + ": quantization_config").get_object("config_groups");
  std::shared_ptr<LayerSettings> settings;
  for (const auto& [name, keys] : groups.json().items()) {  // first what is said of all
    const QuantScheme scheme = read_weights(groups.get_object(name).get_object("weights"));
    const std::vector<std::string> targets = groups.get_object(name).get_strings("targets");
    if (!settings || std::find(targets.begin(), targets.end(), kClass) != targets.end()) {
      settings = std::make_shared<LayerSettings>(scheme, groups.place() + ": config_groups");
    }
  }
  if (!settings) groups.fail("group_0", "is missing");
  for (const auto& [name, keys] : groups.json().items()) {
    const QuantScheme scheme = read_weights(groups.get_object(name).get_object("weights"));
    for (const std::string& target : groups.get_object(name).get_strings("targets")) {
      if (target != kClass)
        settings->add(target, target.starts_with("re:") ? "^(?:" + target.substr(3) + ")" : "^$", scheme);
    }
  }
  return [settings](const std::string& layer) { return settings->of(layer); };
}

}  // namespace roundtable
