// A model as the names, shapes and types of its checkpoint's tensors describe it: its blocks, their linear layers, and
// what lies outside. No graph is asked, so that any architecture has one of these.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "export/checkpoint_model.h"
#include "model/load/parameter.h"
#include "model/load/tensor_source.h"

namespace roundtable {

struct FoundLayer {
  enum class Use {
    kDefault,  // it is quantized unless the config says otherwise
    kKept,     // it is not, unless a rule asks for it alone; `reason` says why
    kNever,    // a router
  };
  LinearSpec linear;  // its name is the full one
  Use use = Use::kDefault;
  std::int64_t block = 0;
  std::string below;  // its name below the block's
  std::string reason;
};

struct NamedModel {
  CheckpointModel facts;
  std::vector<FoundLayer> layers;        // of all blocks, in their order
  std::optional<LinearSpec> head;        // nothing where it is tied
  std::vector<std::string> carried_over;  // tensors of other parts: vision, prediction of more tokens
  // Matrices of any part that the publisher has quantized, each with the tensors that hold it, the weight first.
  std::vector<std::pair<LinearSpec, std::vector<StoredTensor>>> published;
};

// `config` is config.json. Reads headers alone, and of compressed-tensors' packed integers their shapes. Throws Error
// (kBadInput) where there are no blocks, where one is missing, and for a tensor whose meaning is not known: packed
// integers or floats of 8 bits without scales.
NamedModel name_model(const CheckpointSource& source, const std::string& directory, const nlohmann::json& config);

}  // namespace roundtable
