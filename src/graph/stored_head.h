// Whether a model's head is its embedding is a matter of config.json and of the weights.
#pragma once

#include <string>

#include "graph/model.h"
#include "io/checkpoint.h"

namespace roundtable {

// `model`, but where its head is tied to the embedding and the checkpoint in `directory` has a head with other bytes,
// that head counts (Model::stored_head()). A directory without weights is as config.json says.
//
// Source: transformers 5.23, modeling_utils.py, tie_weights(): it ties two tensors that are both in the checkpoint only
// if they are equal. Reads both tensors if they are.
Model with_head_of(const Model& model, const std::string& directory);

// Whether two tensors of the checkpoint in `directory` have the same type, shape and bytes. Reads both.
bool same_tensors(const std::string& directory, const Checkpoint& checkpoint, const std::string& a,
                  const std::string& b);

}  // namespace roundtable
