// Reading tensors of a checkpoint as the file has them, each of them looked at: for values that are not finite, and,
// with a record, for bytes that are no longer what they were when they were first read.
#pragma once

#include <torch/types.h>

#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "model/load/tensor_record.h"

namespace roundtable {

// A tensor by its name in the file, or the matrix `part` of one that holds a matrix for each expert, experts first.
struct StoredTensor {
  std::string name;
  std::optional<std::int64_t> part = std::nullopt;

  // The name under which its digest is kept: a part has one of its own.
  std::string record_name() const { return part ? name + "[" + std::to_string(*part) + "]" : name; }
};

// Thread-safe. Errors of all reads: kNumeric for a value that is not finite, kBadInput for bytes that have changed.
class StoredReader {
 public:
  // Both must outlive this; `record` may be null.
  StoredReader(const Checkpoint& checkpoint, TensorRecord* record) : checkpoint_(checkpoint), record_(record) {}

  const Checkpoint& checkpoint() const { return checkpoint_; }

  // Of the tensor, or of its part: without the experts.
  std::vector<std::int64_t> shape(const StoredTensor& tensor) const;
  std::vector<char> read_bytes(const StoredTensor& tensor) const;
  // The same as a tensor of the file's type, where floats of 8 bits are their bytes, kUInt8.
  torch::Tensor read(const StoredTensor& tensor) const;
  // Only looks at it; keeps no more than a piece of it.
  void look_at(const StoredTensor& tensor) const;

 private:
  void read_to(const StoredTensor& tensor, void* dst) const;
  void judge(const StoredTensor& tensor, const TensorCheck& check) const;

  const Checkpoint& checkpoint_;
  TensorRecord* record_;
};

}  // namespace roundtable
