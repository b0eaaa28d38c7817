// A checkpoint of zeros, or of numbers, whose tensors are named by a test.
#pragma once

#include <nlohmann/json.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "io/json_file.h"
#include "io/safetensors.h"
#include "tests/io/temporary_folder.h"

namespace roundtable::testing {

struct MadeUpTensor {
  std::string name;
  ElementType type = ElementType::kBF16;
  std::vector<std::int64_t> shape;
  std::vector<char> bytes = {};  // empty: zeros
};

inline void write_made_up(const std::string& directory, std::vector<MadeUpTensor> tensors,
                          const nlohmann::json& config) {
  std::vector<TensorView> views;
  for (MadeUpTensor& tensor : tensors) {
    std::size_t bytes = size_of(tensor.type);
    for (const std::int64_t size : tensor.shape) bytes *= static_cast<std::size_t>(size);
    tensor.bytes.resize(bytes);
    views.push_back({tensor.name, tensor.type, tensor.shape, tensor.bytes.data()});
  }
  write_safetensors(directory + "/model.safetensors", views, {{"format", "pt"}});
  save_json(directory + "/config.json", config);
}

}  // namespace roundtable::testing
