// Writing and reading the keys of schemes.
#include "export/formats/scheme_keys.h"

#include <fmt/format.h>

#include "base/text.h"

namespace roundtable {

nlohmann::json scheme_json(const QuantScheme& scheme) {
  return {{"bits", scheme.bits}, {"group_size", scheme.group_size}, {"sym", scheme.symmetric}};
}

nlohmann::json differing(const QuantScheme& scheme, const QuantScheme& common) {
  nlohmann::json keys = nlohmann::json::object();
  const nlohmann::json usual = scheme_json(common);
  const nlohmann::json own = scheme_json(scheme);
  for (const auto& [key, value] : own.items()) {
    if (value != usual[key]) keys[key] = value;
  }
  return keys;
}

QuantScheme read_scheme(const JsonObject& json, QuantScheme scheme) {
  scheme.bits = static_cast<int>(json.get_int_or("bits", scheme.bits, 2, 16));
  if (scheme.bits != 2 && scheme.bits != 3 && scheme.bits != 4 && scheme.bits != 8 && scheme.bits != 16) {
    json.fail("bits", fmt::format("{} is not supported", scheme.bits), "supported are 2, 3, 4, 8");
  }
  scheme.group_size = json.get_int_or("group_size", scheme.group_size, -1, 1 << 24);
  if (scheme.group_size == 0) json.fail("group_size", "is 0");
  scheme.symmetric = json.get_bool_or("sym", scheme.symmetric);
  return scheme;
}

QuantScheme read_common_scheme(const JsonObject& json) {
  for (const char* key : {"bits", "group_size"}) json.get_int(key, -1);
  json.get_bool("sym");
  const QuantScheme scheme = read_scheme(json, {});
  if (scheme.bits == 16) json.fail("bits", "16 is not supported", "supported are 2, 3, 4, 8");
  return scheme;
}

void LayerSettings::add(const std::string& name, const std::string& regex, const QuantScheme& scheme) {
  Setting setting{name, std::nullopt, scheme};
  try {
    setting.pattern.emplace(regex, fmt::format("{}: '{}'", place_, printable(name)));
  } catch (const NotAPattern&) {
  }
  by_name_[name] = settings_.size();
  settings_.push_back(std::move(setting));
}

QuantScheme LayerSettings::of(const std::string& layer) const {
  if (const auto found = by_name_.find(layer); found != by_name_.end()) return settings_[found->second].scheme;
  for (const Setting& setting : settings_) {
    if (setting.pattern && setting.pattern->is_in(layer)) return setting.scheme;
  }
  return common_;
}

}  // namespace roundtable
