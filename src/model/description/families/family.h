// The families of models: each turns its config.json into the one description, ModelConfig.
#pragma once

#include <vector>

#include "io/json_file.h"
#include "model/description/model_config.h"

namespace roundtable {

struct Family {
  const char* model_type;  // as in config.json
  // Fills a ModelConfig that holds Llama's defaults. Throws Error (kBadInput) naming file and key.
  void (*read)(const JsonObject& json, ModelConfig& config);
};

// All that are supported.
const std::vector<Family>& families();

// One file each. Keys, defaults and formulas: transformers 5.23, models/NAME/{configuration,modeling}_NAME.py.
void read_llama(const JsonObject& json, ModelConfig& config);
void read_mistral(const JsonObject& json, ModelConfig& config);
void read_qwen2(const JsonObject& json, ModelConfig& config);
void read_qwen3(const JsonObject& json, ModelConfig& config);
void read_phi3(const JsonObject& json, ModelConfig& config);
void read_gemma2(const JsonObject& json, ModelConfig& config);
void read_gemma3(const JsonObject& json, ModelConfig& config);
void read_opt(const JsonObject& json, ModelConfig& config);
void read_gpt2(const JsonObject& json, ModelConfig& config);
void read_gpt_neox(const JsonObject& json, ModelConfig& config);
void read_mixtral(const JsonObject& json, ModelConfig& config);
void read_qwen3_moe(const JsonObject& json, ModelConfig& config);

}  // namespace roundtable
