// gpt-oss's MXFP4: the experts of a layer in two tensors for the parameter NAME, which is [experts, in, out].
//
//   NAME_blocks  U8 [experts, out, in / 32, 16]  E2M1, two in a byte
//   NAME_scales  U8 [experts, out, in / 32]      E8M0
//
// Source: transformers 5.23, integrations/mxfp4.py, _convert_moe_packed_tensors. It gives bf16; a product is a power of
// two times a level, and is rounded only where bf16 has no more digits.
#include <torch/types.h>

#include "base/error.h"
#include "model/load/published/decode.h"
#include "model/load/published/storage.h"

namespace roundtable {
namespace {

constexpr std::int64_t kGroup = 32;

std::vector<StoredTensor> find_mxfp4(const Checkpoint& checkpoint, const PublishedMatrix& place, const BlockSize&) {
  const auto blocks = find_stored(checkpoint, place.name + "_blocks");
  if (!place.part || !blocks) return {};
  expect_type(checkpoint, *blocks, {ElementType::kU8});
  if (place.in % kGroup != 0) {
    throw bad_input(checkpoint.place_of(*blocks), "holds groups of 32 weights, which do not divide a row");
  }
  expect_shape(checkpoint, *blocks, {place.experts, place.out, place.in / kGroup, kGroup / 2});
  const auto scales = find_stored(checkpoint, place.name + "_scales");
  if (!scales) fail_missing(checkpoint, *blocks, place.name + "_scales");
  expect_type(checkpoint, *scales, {ElementType::kU8, ElementType::kF8E8M0});
  expect_shape(checkpoint, *scales, {place.experts, place.out, place.in / kGroup});
  return {{*blocks, place.part}, {*scales, place.part}};
}

torch::Tensor read_mxfp4(const StoredReader& reader, const PublishedMatrix& place,
                         const std::vector<StoredTensor>& tensors, const BlockSize&) {
  const torch::Tensor codes = reader.read(tensors[0]).view({place.out, place.in / 2});
  return dequantize_blocks(codes, Code::kE2M1, {read_scales(reader, tensors[1]), 1, kGroup}, torch::kBFloat16);
}

}  // namespace

const Storage kMxFp4Storage{"MXFP4 (blocks and scales)", find_mxfp4, read_mxfp4};

}  // namespace roundtable
