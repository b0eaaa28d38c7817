// What config.json says of the quantization of a checkpoint that was published quantized.
#pragma once

#include <optional>
#include <string>

#include "io/json_file.h"
#include "model/load/published/storage.h"

namespace roundtable {

struct PublishedMethod {
  std::string name;              // "fp8"
  BlockSize block = {128, 128};  // of FP8 with scales per block
};

// The method of a model directory, by its config.json (also below a key such as text_config) or hf_quant_config.json.
// Nothing: no file names a method, or it is none that storages() reads. Throws Error (kBadInput) for a
// weight_block_size that is none.
std::optional<PublishedMethod> published_method(const std::string& directory);

// The methods that are read, for messages.
std::string readable_methods();

}  // namespace roundtable
