// Writing and reading auto-round's quantization_config.
#include "export/formats/auto_round_config.h"

#include <fmt/ranges.h>

#include <memory>
#include <utility>

#include "export/formats/scheme_keys.h"
#include "export/reader_names.h"

namespace roundtable {
namespace {

// Of a layer whose scheme differs, or that readers take for one of 16 bits without an entry (outside of blocks). It
// always says its bits: vLLM takes an entry without them for 16 (quantization/inc/inc.py, get_quant_method).
nlohmann::json entry_of(const QuantScheme& scheme, const QuantScheme& common, bool outside_blocks) {
  nlohmann::json keys = outside_blocks ? scheme_json(scheme) : differing(scheme, common);
  if (!keys.empty()) keys["bits"] = scheme.bits;
  if (outside_blocks) keys["data_type"] = "int";
  return keys;
}

}  // namespace

nlohmann::json auto_round_config(std::string_view packing_format, const CheckpointScheme& checkpoint,
                                 const CheckpointModel& model) {
  const ReaderNames names(model, checkpoint);
  const nlohmann::json in_16_bits = {{"bits", 16}, {"data_type", "float"}};
  nlohmann::json config = {{"quant_method", "auto-round"},
                           {"packing_format", packing_format},
                           {"data_type", "int"},
                           {"block_name_to_quantize", fmt::format("{}", fmt::join(names.block_lists(), ","))},
                           {"autoround_version", "0.16.1"},
                           {"producer", "roundtable"}};
  config.update(scheme_json(checkpoint.common));
  if (checkpoint.iters) config["iters"] = *checkpoint.iters;  // a note: no reader needs it
  for (const NamedLayer& layer : names.layers()) {
    const std::string& name = layer.pattern.empty() ? layer.name : layer.pattern;
    nlohmann::json keys = layer.scheme ? entry_of(*layer.scheme, checkpoint.common, layer.outside_blocks) : in_16_bits;
    if (!keys.empty()) config["extra_config"][name] = std::move(keys);
  }
  for (const std::string& part : names.other_parts()) {
    config["extra_config"][ReaderNames::pattern_of_part(part)] = in_16_bits;
  }
  return config;
}

SchemeOf read_auto_round_config(const nlohmann::json& config, const std::string& place) {
  const JsonObject json(config, place + ": quantization_config");
  const QuantScheme common = read_common_scheme(json);
  const auto settings = std::make_shared<LayerSettings>(common, json.place() + ": extra_config");
  if (json.has("extra_config")) {
    const JsonObject extra = json.get_object("extra_config");
    for (const auto& [name, keys] : extra.json().items()) {
      settings->add(name, name, read_scheme(extra.get_object(name), common));
    }
  }
  return [settings](const std::string& layer) { return settings->of(layer); };
}

FusedReading auto_round_reading(const FusedLayer& layer) {
  if (layer.alike()) return FusedReading::kRight;
  if (layer.parts_per_expert == 0) return FusedReading::kRefused;
  FusedLayer named = layer;
  std::erase_if(named.parts, [&](const auto& part) { return FusedLayer::same(part, layer.common); });
  return named.alike() ? FusedReading::kMisread : FusedReading::kRefused;  // taken for all, or contradictory
}

bool is_auto_round_config(const nlohmann::json& config, std::string_view packing_format) {
  return config.value("packing_format", nlohmann::json()) == packing_format;
}

}  // namespace roundtable
