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

// A tensor's name, type and shape, before it has values.
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

  // Throws Error (kBadInput) if the tensor is missing, or has another type or shape.
  torch::Tensor read_tensor(const TensorSpec& spec) const;
};

// The reader must not outlive what it reads from. In a checkpoint, errors begin with the file of tensor `named`.
TensorReader reader_of(const SafetensorsFile& file);
TensorReader reader_of(const Checkpoint& checkpoint, const std::string& named);
// Of tensors that are not in a file yet.
TensorReader reader_of(const std::vector<NamedTensor>& tensors, const std::string& place);

}  // namespace roundtable
