// Whether a model's head is its embedding is a matter of config.json and of the weights.
#pragma once

#include <string>

#include "graph/model.h"

namespace roundtable {

// `model`, but where its head is tied to the embedding and the checkpoint in `directory` has a head with other bytes,
// that head counts (Model::stored_head()). A directory without weights is as config.json says.
//
// Source: transformers 5.23, modeling_utils.py, tie_weights(): it ties two tensors that are both in the checkpoint only
// if they are equal. Reads both tensors if they are.
Model with_head_of(const Model& model, const std::string& directory);

}  // namespace roundtable
