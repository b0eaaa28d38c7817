// Schemes in a quantization_config: `bits`, `group_size`, `sym`, and the settings of single layers by name or regular
// expression, as auto-round, AutoGPTQ and AutoAWQ have them. Inside this folder.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/pattern.h"
#include "export/format.h"
#include "io/json_file.h"

namespace roundtable {

// The three keys of a scheme.
nlohmann::json scheme_json(const QuantScheme& scheme);
// Only the keys in which `scheme` differs from `common`.
nlohmann::json differing(const QuantScheme& scheme, const QuantScheme& common);

// `scheme`, changed by the keys that are there. Bits may be 16: not quantized. Throws Error (kBadInput) for a value
// that makes no sense.
QuantScheme read_scheme(const JsonObject& json, QuantScheme scheme);
// All three must be there, and bits below 16.
QuantScheme read_common_scheme(const JsonObject& json);

// The settings of single layers over a common scheme. Precedence: 1. a layer's exact name, 2. the first regular
// expression that matches anywhere in the name.
class LayerSettings {
 public:
  // `place` opens errors: the file, and the key that holds the settings.
  LayerSettings(const QuantScheme& common, const std::string& place) : common_(common), place_(place) {}
  // What is not a regular expression is only a name, as for other readers. Throws Error (kBadInput) if it is too large.
  void add(const std::string& name, const std::string& regex, const QuantScheme& scheme);
  QuantScheme of(const std::string& layer) const;

 private:
  struct Setting {
    std::string name;
    std::optional<Pattern> pattern;  // none: a name alone
    QuantScheme scheme;
  };
  QuantScheme common_;
  std::string place_;
  std::vector<Setting> settings_;
  std::map<std::string, std::size_t> by_name_;
};

}  // namespace roundtable
