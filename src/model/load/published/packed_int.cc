// compressed-tensors' pack-quantized integers, as Kimi K2 is published.
//
//   NAME.weight_packed      I32 [out, words]     integers of 2, 3, 4 or 8 bits with 2^(bits - 1) added, packed along a
//   row NAME.weight_scale       F32, BF16 or F16 [out, groups] NAME.weight_shape       I64 or I32 [2]       out, in
//   NAME.weight_zero_point  I32 [words, groups]  asymmetric alone, packed down the rows
//
// The bits and the groups follow from the shapes, so that each layer may have its own.
//
// Source: compressed-tensors 0.20.0, compressors/pack_quantized/base.py (decompress) and helpers.py
// (unpack_from_int32), quantization/lifecycle/forward.py (_dequantize: (q - zero_point) * scale in the scale's dtype;
// the first factor is exact there, so that one rounding of the fp32 product is the same).
#include <fmt/format.h>
#include <torch/types.h>

#include "base/error.h"
#include "model/load/published/storage.h"
#include "quant/fake_quant.h"
#include "quant/packing.h"

namespace roundtable {
namespace {

// The bits with which so many values fill so many words; 0 if there is none.
int bits_of(std::int64_t values, std::int64_t words) {
  for (const int bits : {4, 8, 2, 3}) {
    if (packed_words(values, bits) == words) return bits;
  }
  return 0;
}

std::vector<StoredTensor> find_packed_int(const Checkpoint& checkpoint, const PublishedMatrix& place,
                                          const BlockSize&) {
  const std::string layer = layer_of(place.name);
  const auto packed = find_stored(checkpoint, layer + ".weight_packed");
  if (place.part || !packed || checkpoint.info(*packed).type != ElementType::kI32) return {};
  const TensorInfo& info = checkpoint.info(*packed);
  const int bits = info.shape.size() == 2 ? bits_of(place.in, info.shape[1]) : 0;
  if (bits == 0) {
    throw bad_input(checkpoint.place_of(*packed),
                    fmt::format("does not hold rows of {} weights of 2, 3, 4 or 8 bits", place.in),
                    "fetch the model again, or correct config.json");
  }
  expect_shape(checkpoint, *packed, {place.out, packed_words(place.in, bits)});
  std::vector<StoredTensor> tensors = {{*packed}};
  for (const char* name : {".weight_scale", ".weight_shape"}) {
    const auto stored = find_stored(checkpoint, layer + name);
    if (!stored) fail_missing(checkpoint, *packed, layer + name);
    tensors.push_back({*stored});
  }
  const TensorInfo& scale = checkpoint.info(tensors[1].name);
  expect_type(checkpoint, scale.name, {ElementType::kF32, ElementType::kBF16, ElementType::kF16});
  const std::int64_t groups = scale.shape.size() == 2 ? scale.shape[1] : 0;
  if (groups == 0 || place.in % groups != 0 || scale.shape[0] != place.out) {
    throw bad_input(checkpoint.place_of(scale.name),
                    fmt::format("does not hold groups that divide {} rows of {} weights", place.out, place.in),
                    "fetch the model again, or correct config.json");
  }
  expect_type(checkpoint, tensors[2].name, {ElementType::kI64, ElementType::kI32});
  expect_shape(checkpoint, tensors[2].name, {2});
  if (const auto order = find_stored(checkpoint, layer + ".weight_g_idx")) {
    throw bad_input(checkpoint.place_of(*order), "orders the columns by activations, which is not read",
                    "quantize from the float model");
  }
  if (const auto zeros = find_stored(checkpoint, layer + ".weight_zero_point")) {
    expect_type(checkpoint, *zeros, {ElementType::kI32});
    expect_shape(checkpoint, *zeros, {packed_words(place.out, bits), groups});
    tensors.push_back({*zeros});
  }
  return tensors;
}

torch::Tensor read_packed_int(const StoredReader& reader, const PublishedMatrix& place,
                              const std::vector<StoredTensor>& tensors, const BlockSize&) {
  const Checkpoint& checkpoint = reader.checkpoint();
  if (!torch::equal(reader.read(tensors[2]).to(torch::kInt64), torch::tensor({place.out, place.in}, torch::kInt64))) {
    throw bad_input(checkpoint.place_of(tensors[2].name), "is not the layer's shape", "fetch the model again");
  }
  const torch::Tensor packed = reader.read(tensors[0]);
  const torch::Tensor scale = read_scales(reader, tensors[1]);
  const int bits = bits_of(place.in, packed.size(1));
  QuantScheme scheme{.bits = bits, .group_size = place.in / scale.size(1)};
  const bool symmetric = tensors.size() == 3;
  const torch::Tensor zeros = symmetric ? torch::full(scale.sizes(), 1 << (bits - 1), torch::kUInt8)
                                        : unpack_rows(reader.read(tensors[3]), bits, place.out);
  const torch::Tensor q = unpack_rows(packed.t(), bits, place.in).t().contiguous();
  return dequantize({scheme, q, scale, zeros}, result_type(checkpoint, tensors[1].name));
}

}  // namespace

const Storage kPackedIntStorage{"compressed-tensors' packed integers", find_packed_int, read_packed_int};

}  // namespace roundtable
