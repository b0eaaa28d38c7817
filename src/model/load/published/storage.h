// How publishers store a matrix that they have quantized: one table (storage.cc), one file for each kind.
//
// A storage is recognised by the names and types of its tensors, so that a checkpoint may mix several, as those do that
// leave some layers in bf16. What its tensors hold is derived from their shapes; config.json is asked only for the size
// of blocks that the shapes leave open.
#pragma once

#include <torch/types.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"
#include "model/load/stored_reader.h"

namespace roundtable {

// One matrix [out, in] of the model and where a checkpoint would hold it.
struct PublishedMatrix {
  std::string name;                                 // "….up_proj.weight", or of the tensor of all experts
  std::optional<std::int64_t> part = std::nullopt;  // of that tensor
  std::int64_t experts = 1;
  std::int64_t out = 0;
  std::int64_t in = 0;
  bool transposed = false;  // the tensor holds [in, out]
};

// Rows and columns of a block of weights that share a scale: weight_block_size in config.json.
using BlockSize = std::array<std::int64_t, 2>;

struct Storage {
  std::string_view name;  // "FP8 with weight_scale_inv"

  // The tensors that hold the matrix, the weight first; empty if they are not stored in this way. Reads headers alone.
  // Throws Error (kBadInput) if a scale is missing, or if a shape or a type is wrong.
  std::vector<StoredTensor> (*find)(const Checkpoint& checkpoint, const PublishedMatrix& place, const BlockSize& block);
  // The matrix [out, in] from these tensors: bf16, or fp32 with values of fp16 where the scales are fp16.
  torch::Tensor (*read)(const StoredReader& reader, const PublishedMatrix& place,
                        const std::vector<StoredTensor>& tensors, const BlockSize& block);
};

extern const Storage kFloatStorage;      // floats.cc
extern const Storage kFp8Storage;        // fp8.cc
extern const Storage kMxFp4Storage;      // mxfp4.cc: gpt-oss
extern const Storage kPackedFp4Storage;  // packed_fp4.cc: DeepSeek-V4, ModelOpt's NVFP4
extern const Storage kPackedIntStorage;  // packed_int.cc: compressed-tensors

const std::vector<const Storage*>& storages();

// For these files.

// The name in the file (stored_name() of it), if the checkpoint has that tensor.
std::optional<std::string> find_stored(const Checkpoint& checkpoint, const std::string& name);
// `name` without ".weight"; a tensor of all experts has no such ending and keeps its name.
std::string layer_of(const std::string& name);
// Rows and columns as the matrix lies in the file.
std::vector<std::int64_t> stored_matrix(const PublishedMatrix& place);
// The place of a tensor of this matrix, with the experts first if it is a part.
std::vector<std::int64_t> with_experts(const PublishedMatrix& place, std::vector<std::int64_t> shape);
// Throws Error (kBadInput) if the tensor has another shape.
void expect_shape(const Checkpoint& checkpoint, const std::string& stored, const std::vector<std::int64_t>& shape);
// Throws Error (kBadInput) if the tensor's type is none of these.
void expect_type(const Checkpoint& checkpoint, const std::string& stored, const std::vector<ElementType>& types);
[[noreturn]] void fail_missing(const Checkpoint& checkpoint, const std::string& weight, const std::string& scale);
// Numbers of scales in fp32. `type` is that of the tensor; U8 is E8M0. Throws Error (kNumeric) for one that is not
// finite.
torch::Tensor read_scales(const StoredReader& reader, const StoredTensor& tensor);
// What the matrix becomes: fp16 for fp16 scales, else bf16.
torch::ScalarType result_type(const Checkpoint& checkpoint, const std::string& scale);

}  // namespace roundtable
