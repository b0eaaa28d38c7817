// Looking into config.json where readers do.
#include "model/load/published/method.h"

#include <filesystem>

#include "base/error.h"

namespace roundtable {
namespace {

// quant_method of transformers and vLLM, and for compressed-tensors its formats.
constexpr const char* kMethods[] = {"fp8", "fbgemm_fp8", "mxfp4", "modelopt", "modelopt_fp4"};
constexpr const char* kFormats[] = {"float-quantized", "naive-quantized", "pack-quantized", "mixed-precision"};

template <std::size_t N>
bool is_one_of(const char* const (&known)[N], const std::string& name) {
  for (const char* one : known) {
    if (name == one) return true;
  }
  return false;
}

std::string text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::optional<PublishedMethod> method_of(const JsonObject& quantization) {
  const nlohmann::json& json = quantization.json();
  PublishedMethod method{text_of(json, "quant_method")};
  if (method.name.empty() && !text_of(json, "quant_algo").empty()) method.name = "modelopt";
  if (method.name == "modelopt" || method.name == "modelopt_fp4") {
    const std::string algorithm = text_of(json, "quant_algo");
    if (!algorithm.starts_with("FP8") && algorithm != "NVFP4" && algorithm != "MIXED_PRECISION") return std::nullopt;
  } else if (method.name == "compressed-tensors") {
    if (!is_one_of(kFormats, text_of(json, "format"))) return std::nullopt;
    for (const auto& group : json.value("config_groups", nlohmann::json::object())) {
      const nlohmann::json weights = group.is_object() ? group.value("weights", nlohmann::json()) : nlohmann::json();
      if (weights.is_object() && weights.contains("block_structure") && weights["block_structure"].is_array()) {
        const std::vector<std::int64_t> block =
            JsonObject(weights, quantization.place()).get_ints("block_structure", 1, 1 << 20);
        if (block.size() == 2) method.block = {block[0], block[1]};
      }
    }
    return method;
  } else if (!is_one_of(kMethods, method.name)) {
    return std::nullopt;
  }
  if (quantization.has("weight_block_size")) {
    const std::vector<std::int64_t> block = quantization.get_ints("weight_block_size", 1, 1 << 20);
    if (block.size() != 2) quantization.fail("weight_block_size", "must be two sizes, rows and columns");
    method.block = {block[0], block[1]};
  }
  return method;
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

}  // namespace

std::optional<PublishedMethod> published_method(const std::string& directory) {
  const std::string config = directory + "/config.json";
  if (exists(config)) {
    const JsonObject json = JsonObject::load(config);
    // vLLM, model_executor/model_loader/weight_utils.py (get_quant_config) looks below text_config too.
    for (const char* key : {"quantization_config", "compression_config"}) {
      if (json.has(key) && json.json()[key].is_object()) return method_of(json.get_object(key));
      for (const char* inner : {"text_config", "llm_config", "language_config", "thinker_config"}) {
        if (!json.has(inner) || !json.json()[inner].is_object()) continue;
        const JsonObject text = json.get_object(inner);
        if (text.has(key) && text.json()[key].is_object()) return method_of(text.get_object(key));
      }
    }
  }
  const std::string modelopt = directory + "/hf_quant_config.json";
  if (!exists(modelopt)) return std::nullopt;
  const JsonObject json = JsonObject::load(modelopt);
  return json.has("quantization") && json.json()["quantization"].is_object()
             ? method_of(json.get_object("quantization"))
             : std::nullopt;
}

std::string readable_methods() {
  return "fp8, fbgemm_fp8, mxfp4, modelopt (FP8, NVFP4), compressed-tensors (float-quantized, pack-quantized)";
}

}  // namespace roundtable
