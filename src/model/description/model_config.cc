// Finding the family of a config.json, and what every family has in common.
#include "model/description/model_config.h"

#include <fmt/ranges.h>

#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "io/json_file.h"
#include "model/description/families/family.h"

namespace roundtable {
namespace {

void check(const JsonObject& json, const ModelConfig& config) {
  if (config.n_heads % config.n_kv_heads != 0) {
    const char* key = "num_key_value_heads";
    json.fail(key, fmt::format("{}{} does not divide num_attention_heads {}",
                               json.json().contains(key) ? "" : "is missing, and its default ", config.n_kv_heads,
                               config.n_heads));
  }
  if (!config.rope.type.empty() && config.rope.rotary_dim(config.head_dim) % 2 != 0) {
    json.fail("head_dim", fmt::format("{} of {} dimensions a head are rotated, which is odd",
                                      config.rope.rotary_dim(config.head_dim), config.head_dim));
  }
  if (config.n_experts > 0 && config.experts_per_token > config.n_experts) {
    json.fail("num_experts_per_tok",
              fmt::format("{} is more than the {} experts", config.experts_per_token, config.n_experts));
  }
}

}  // namespace

std::int64_t RopeConfig::rotary_dim(std::int64_t head_dim) const {
  return static_cast<std::int64_t>(static_cast<double>(head_dim) * partial_rotary_factor);
}

bool ModelConfig::slides(std::int64_t block) const {
  if (sliding_window == 0) return false;
  return sliding.empty() || sliding[static_cast<std::size_t>(block)];
}

double ModelConfig::attention_scale_of(std::int64_t block) const {
  const double scale = attention_scale > 0 ? attention_scale : 1.0 / std::sqrt(static_cast<double>(head_dim));
  return scale_by_inverse_block ? scale / static_cast<double>(block + 1) : scale;
}

ModelConfig load_model_config(const std::string& directory) {
  const JsonObject json = JsonObject::load(directory + "/config.json");
  ModelConfig config;
  config.model_type = json.get_string("model_type");
  std::vector<std::string> known;
  for (const Family& family : families()) {
    if (config.model_type == family.model_type) {
      family.read(json, config);
      check(json, config);
      return config;
    }
    known.push_back(family.model_type);
  }
  json.fail("model_type", fmt::format("'{}' is not supported", printable(config.model_type)),
            fmt::format("supported are {}", fmt::join(known, ", ")));
}

}  // namespace roundtable
