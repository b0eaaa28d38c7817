// The `quantization_config` of auto-round's own formats, which differ only in packing_format. Inside this folder.
//
// Source: auto-round 0.16.1, export/export_to_autoround/export.py (written), inference/convert_model.py and
// inference/utils.py, _expand_regex_config (read): names, or expressions that are searched for. vLLM searches too
// (07d580a6, quantization/inc/config_parser.py); SGLang matches expressions with the whole name (5f62d4ec,
// quantization/auto_round/routing.py). Both take several names of blocks, divided by commas.
#pragma once

#include "export/format.h"

namespace roundtable {

// What differs from the common scheme in a layer is written under `extra_config`.
nlohmann::json auto_round_config(std::string_view packing_format, const CheckpointScheme& checkpoint,
                                 const CheckpointModel& model);

// Throws Error (kBadInput), opened by `place`, if a value makes no sense. The keys of `extra_config` are layer names,
// or else regular expressions.
SchemeOf read_auto_round_config(const nlohmann::json& config, const std::string& place);

// vLLM 07d580a6, quantization/inc/config_parser.py, _resolve_raw; SGLang 5f62d4ec, quantization/auto_round/routing.py,
// get_layer_config: parts must be alike. Of experts, only those under `extra_config` are looked at.
FusedReading auto_round_reading(const FusedLayer& layer);

bool is_auto_round_config(const nlohmann::json& config, std::string_view packing_format);

// A format with the tensors of `Layout` (GptqFormat, AwqFormat) under this config; name() is the packing_format.
template <class Layout>
class AutoRoundFormat : public Layout {
 public:
  nlohmann::json quantization_config(const CheckpointScheme& checkpoint, const CheckpointModel& model) const override {
    return auto_round_config(this->name(), checkpoint, model);
  }
  // vLLM and older readers look there.
  std::vector<std::string> config_files() const override { return {"quantization_config.json"}; }
  bool owns(const nlohmann::json& config) const override { return is_auto_round_config(config, this->name()); }
  FusedReading fused_reading(const FusedLayer& layer) const override { return auto_round_reading(layer); }
  SchemeOf read_schemes(const nlohmann::json& config, const std::string& place) const override {
    return read_auto_round_config(config, place);
  }

 protected:
  using Layout::Layout;
};

}  // namespace roundtable
