// What formats need to know of a model: its config.json, and the names of a few of its parts. A graph::Model has all of
// it, and so do the names of a checkpoint's tensors (round/).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace roundtable {

class Model;
class SafetensorsFormat;
struct CheckpointScheme;

struct CheckpointModel {
  CheckpointModel() = default;
  CheckpointModel(const Model& model);  // not explicit: whatever has graphs can be asked for what formats need

  nlohmann::json config;                     // the whole config.json
  std::string type;                          // its model_type
  std::string text_config;                   // where in it the text part is described: "text_config"; empty: at the top
  std::int64_t n_blocks = 0;
  std::int64_t vocab_size = 0;
  std::string first_block;                   // "model.layers.0"
  std::string embedding;                     // "model.embed_tokens.weight"
  std::string head_layer;                    // "lm_head", tied or not
  bool tied_head = false;                    // the head is the embedding
  bool stored_head = false;                  // config.json says that it is, and the checkpoint has a head of its own
  std::vector<std::string> outside_linears;  // linear layers outside of the blocks that are not the head
};

// Says in a config.json that the head is not tied: readers look where the text part is described (`text_config`, as
// above), and some at the top.
void untie_head(nlohmann::json& config, const std::string& text_config);

// Writes config.json for a checkpoint in `format`, and the files that hold its quantization_config for readers that
// look there. What an earlier quantization has left in config.json goes. Returns their names.
std::vector<std::string> write_checkpoint_config(const std::string& directory, const SafetensorsFormat& format,
                                                 const CheckpointScheme& checkpoint, const CheckpointModel& model);

}  // namespace roundtable
