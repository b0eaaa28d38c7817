// A matrix that is not quantized: F32, BF16 or F16, as `name`. It is in the table for experts that a checkpoint holds
// in another form than the model (experts.h).
#include <torch/types.h>

#include "model/load/published/storage.h"
#include "model/load/tensor_source.h"

namespace roundtable {
namespace {

std::vector<StoredTensor> find_floats(const Checkpoint& checkpoint, const PublishedMatrix& place, const BlockSize&) {
  const auto stored = find_stored(checkpoint, place.name);
  if (!stored || !is_weight_type(checkpoint.info(*stored).type)) return {};
  expect_shape(checkpoint, *stored, with_experts(place, stored_matrix(place)));
  return {{*stored, place.part}};
}

torch::Tensor read_floats(const StoredReader& reader, const PublishedMatrix& place,
                          const std::vector<StoredTensor>& tensors, const BlockSize&) {
  const torch::Tensor matrix = reader.read(tensors[0]);
  return place.transposed ? matrix.t().contiguous() : matrix;
}

}  // namespace

const Storage kFloatStorage{"floats", find_floats, read_floats};

}  // namespace roundtable
