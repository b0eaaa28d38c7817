// Facts from a model with graphs, and config.json of what was made of it.
#include "export/checkpoint_model.h"

#include <sstream>

#include "export/format.h"
#include "graph/model.h"
#include "io/json_file.h"

namespace roundtable {
namespace {

// The publisher's keys, if the model was quantized already: of a model inside of another they may lie at any depth.
void erase_quantization(nlohmann::json& config) {
  config.erase("quantization_config");
  config.erase("compression_config");
  for (nlohmann::json& part : config) {
    if (part.is_object()) erase_quantization(part);
  }
}

}  // namespace

CheckpointModel::CheckpointModel(const Model& model)
    : config(model.config()),
      type(model.type()),
      text_config(model.graphs().text_config),
      n_blocks(model.n_blocks()),
      vocab_size(model.vocab_size()),
      first_block(model.block_name(0)),
      embedding(model.embedding()),
      head_layer(model.head_layer()),
      tied_head(!model.head()),
      stored_head(model.stored_head()),
      outside_linears(model.outside_linears()) {}

void untie_head(nlohmann::json& config, const std::string& text_config) {
  config["tie_word_embeddings"] = false;
  nlohmann::json* part = &config;
  std::istringstream path(text_config);
  for (std::string key; std::getline(path, key, '.') && part->contains(key);) part = &(*part)[key];
  (*part)["tie_word_embeddings"] = false;
}

// `quantization_config` goes to the top, where each engine looks for it first, of a wrapped model too: transformers
// 5.23, quantizers/auto.py (get_hf_quantizer: config.quantization_config, then that of the text part); vLLM,
// model_loader/weight_utils.py, and SGLang's file of that name (get_quant_config: hf_config.quantization_config, then
// that of text_config).
std::vector<std::string> write_checkpoint_config(const std::string& directory, const SafetensorsFormat& format,
                                                 const CheckpointScheme& checkpoint, const CheckpointModel& model) {
  nlohmann::json config = model.config;
  if (model.stored_head) untie_head(config, model.text_config);  // some readers would take the embedding
  erase_quantization(config);
  const nlohmann::json quantization = format.quantization_config(checkpoint, model);
  if (!quantization.is_null()) config["quantization_config"] = quantization;
  std::vector<std::string> names = format.config_files();
  for (const std::string& file : names) save_json(directory + "/" + file, quantization);
  save_json(directory + "/config.json", config);
  names.push_back("config.json");
  return names;
}

}  // namespace roundtable
