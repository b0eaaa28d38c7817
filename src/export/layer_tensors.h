// The tensors of one layer in a file: their names, types and shapes, and reading them with all of that checked.
#pragma once

#include <torch/types.h>

#include <functional>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "model/load/tensor_source.h"

namespace roundtable {

struct NamedTensor {
  std::string name;
  torch::Tensor tensor;  // host, contiguous

  TensorView view() const;
};

// What a tensor will be, known before there are any values.
struct TensorSpec {
  std::string name;
  torch::ScalarType type;
  std::vector<std::int64_t> shape;

  std::uint64_t bytes() const;
};

// Where the tensors of a layer are found: a whole checkpoint, or a single shard.
struct TensorReader {
  std::function<const TensorInfo*(const std::string& name)> find;  // null where there is none
  std::function<void(const TensorInfo& info, void* data)> read;
  std::string place;  // opens every error

  // Throws Error (kBadInput) where the tensor is missing, or of another type or shape.
  torch::Tensor read_tensor(const TensorSpec& spec) const;
};

// Both stay valid as long as what they read from. In a checkpoint the file of tensor `named` opens the errors.
TensorReader reader_of(const SafetensorsFile& file);
TensorReader reader_of(const Checkpoint& checkpoint, const std::string& named);

}  // namespace roundtable
