// Whether a model's head is its embedding is a matter of config.json and of the weights.
#pragma once

#include <string>

#include "model/description/model_config.h"

namespace roundtable {

// load_model_config(), and if config.json ties the head to the embedding, but the checkpoint has a head with other
// bytes, that head counts: tie_word_embeddings is false and stored_head true. A directory without weights is as
// config.json says.
//
// Source: transformers 5.23, modeling_utils.py, tie_weights(): it ties two tensors that are both in the checkpoint only
// if they are equal. Reads both tensors if they are.
ModelConfig load_model_description(const std::string& directory);

}  // namespace roundtable
