// FP4 in NAME.weight, two E2M1 in a byte: U8 or I8 [out, in / 2].
//
//   MXFP4, of DeepSeek-V4's experts:  NAME.scale or NAME.weight_scale_inv    E8M0 [out, in / 32]
//   NVFP4, of ModelOpt:               NAME.weight_scale F8_E4M3 [out, in / 16]; NAME.weight_scale_2 F32 of one element.
//                                     A group's scale is their product in fp32.
//
// Source: transformers 5.23, integrations/finegrained_fp8.py, Fp8Dequantize (int8 is FP4); ModelOpt,
// torch/quantization/qtensor/nvfp4_tensor.py, NVFP4QTensor.dequantize. Both compute in fp32 and round once.
#include <fmt/ranges.h>
#include <torch/types.h>

#include "base/error.h"
#include "model/load/published/decode.h"
#include "model/load/published/storage.h"

namespace roundtable {
namespace {

constexpr std::int64_t kMxGroup = 32, kNvGroup = 16;

std::int64_t group_of(const std::vector<StoredTensor>& tensors) { return tensors.size() == 3 ? kNvGroup : kMxGroup; }

std::vector<StoredTensor> find_nvfp4(const Checkpoint& checkpoint, const PublishedMatrix& place,
                                     const std::string& weight, const std::string& scale) {
  const std::string second_name = layer_of(place.name) + ".weight_scale_2";
  const auto second = find_stored(checkpoint, second_name);
  if (!second) fail_missing(checkpoint, weight, second_name);
  expect_type(checkpoint, scale, {ElementType::kF8E4M3});
  expect_type(checkpoint, *second, {ElementType::kF32});
  if (checkpoint.info(*second).element_count() != 1) {
    throw bad_input(checkpoint.place_of(*second), "must hold one number", "fetch the model again");
  }
  return {{weight}, {scale}, {*second}};
}

std::vector<StoredTensor> find_packed_fp4(const Checkpoint& checkpoint, const PublishedMatrix& place,
                                          const BlockSize&) {
  const auto weight = find_stored(checkpoint, place.name);
  if (place.part || !weight || !place.name.ends_with(".weight")) return {};
  const ElementType type = checkpoint.info(*weight).type;
  if (type != ElementType::kU8 && type != ElementType::kI8) return {};
  const std::string layer = layer_of(place.name);
  std::vector<StoredTensor> tensors;
  if (const auto scale = find_stored(checkpoint, layer + ".weight_scale")) {
    tensors = find_nvfp4(checkpoint, place, *weight, *scale);
  } else {
    auto e8m0 = find_stored(checkpoint, layer + ".scale");
    if (!e8m0) e8m0 = find_stored(checkpoint, layer + ".weight_scale_inv");
    if (!e8m0) fail_missing(checkpoint, *weight, type == ElementType::kU8 ? layer + ".weight_scale" : layer + ".scale");
    expect_type(checkpoint, *e8m0, {ElementType::kF8E8M0, ElementType::kU8, ElementType::kF32, ElementType::kBF16});
    tensors = {{*weight}, {*e8m0}};
  }
  const std::int64_t group = group_of(tensors);
  if (place.in % group != 0) {
    throw bad_input(checkpoint.place_of(*weight),
                    fmt::format("holds groups of {} weights, which do not divide a row of {}", group, place.in));
  }
  expect_shape(checkpoint, *weight, {place.out, place.in / 2});
  expect_shape(checkpoint, tensors[1].name, {place.out, place.in / group});
  return tensors;
}

torch::Tensor read_packed_fp4(const StoredReader& reader, const PublishedMatrix&,
                              const std::vector<StoredTensor>& tensors, const BlockSize&) {
  const torch::Tensor codes = reader.read(tensors[0]);
  torch::Tensor scales = read_scales(reader, tensors[1]);
  if (tensors.size() == 3) scales = scales.mul(read_scales(reader, tensors[2]).item<float>());
  return dequantize_blocks(codes, Code::kE2M1, {scales, 1, group_of(tensors)}, torch::kBFloat16);
}

}  // namespace

const Storage kPackedFp4Storage{"FP4 (DeepSeek-V4, ModelOpt's NVFP4)", find_packed_fp4, read_packed_fp4};

}  // namespace roundtable
