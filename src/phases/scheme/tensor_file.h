// Tensors that have no room in memory: written once, and read back some rows at a time.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "io/posix.h"

namespace roundtable {

// A file without a name, which only this process sees: a kill leaves nothing behind. Not thread-safe. Throws Error, whose
// place is the folder.
class TensorFile {
 public:
  // Where a tensor lies in the file.
  struct Place {
    std::int64_t offset = 0;
    std::vector<std::int64_t> shape;  // at least one dimension
    torch::ScalarType type = torch::kFloat32;
  };

  explicit TensorFile(const std::string& folder);

  // Behind what is there. The tensor may be on any device.
  Place write(const torch::Tensor& tensor);
  // Rows [first, first + count) of dimension 0, on the host.
  torch::Tensor read_rows(const Place& place, std::int64_t first, std::int64_t count) const;

 private:
  std::string folder_;
  UniqueFd fd_;
  std::int64_t end_ = 0;
};

}  // namespace roundtable
