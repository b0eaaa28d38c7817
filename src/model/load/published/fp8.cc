// FP8: E4M3 weights with a scale per tensor, per row or per block.
//
//   NAME.weight            F8_E4M3 [out, in]; or NAME, [experts, out, in], of all experts
//   NAME.weight_scale_inv  the factor (not its inverse): DeepSeek, Qwen, GLM, MiniMax. F32, BF16, F16, or E8M0, which
//                          may be called U8
//   NAME.weight_scale      the same: compressed-tensors (float-quantized), ModelOpt, fbgemm
//   NAME.scale             the same: DeepSeek-V4;  NAME.qscale_weight: Mistral
//
// Shapes of the scale: of one element; [out] or [out, 1]; or one for each block, rounded up. A scale of activations
// (input_scale, activation_scale, input_scale_ub) is not part of the weight.
//
// Source: transformers 5.23, integrations/finegrained_fp8.py, Fp8Dequantize._dequantize_one (fp32, rounded once to the
// parameter's dtype; uint8 is E8M0; the block follows from the shapes, so that it refuses edges, which vLLM reads:
// quantization/utils/fp8_utils.py) and quantizers/quantizer_finegrained_fp8.py (update_weight_conversions: the names);
// compressed-tensors 0.20.0, quantization/lifecycle/forward.py, _dequantize.
#include <fmt/ranges.h>
#include <torch/types.h>

#include "base/error.h"
#include "model/load/published/decode.h"
#include "model/load/published/storage.h"

namespace roundtable {
namespace {

std::vector<std::string> scale_names(const PublishedMatrix& place) {
  const std::string layer = layer_of(place.name);
  if (place.part && layer == place.name) return {layer + "_scale_inv", layer + "_scale", layer + "_weight_scale"};
  return {layer + ".weight_scale_inv", layer + ".weight_scale", layer + ".scale", layer + ".qscale_weight"};
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Rows and columns of the weights that share a scale, where scales of this shape belong to a matrix of these rows and
// columns.
std::optional<BlockSize> block_of(std::int64_t rows, std::int64_t columns, std::vector<std::int64_t> scales,
                                  const BlockSize& block) {
  std::int64_t count = 1;
  for (const std::int64_t size : scales) count *= size;
  if (count == 1) return BlockSize{rows, columns};
  if (scales.size() == 1) scales.push_back(1);
  if (scales.size() != 2 || count == 0) return std::nullopt;
  if (scales[0] == ceil_div(rows, block[0]) && scales[1] == ceil_div(columns, block[1])) return block;
  if (rows % scales[0] != 0 || columns % scales[1] != 0) return std::nullopt;
  return BlockSize{rows / scales[0], columns / scales[1]};
}

// Of the scales of one matrix.
std::vector<std::int64_t> scale_shape(const Checkpoint& checkpoint, const StoredTensor& scale) {
  const std::vector<std::int64_t>& shape = checkpoint.info(scale.name).shape;
  return scale.part ? std::vector<std::int64_t>(shape.begin() + 1, shape.end()) : shape;
}

std::vector<StoredTensor> find_fp8(const Checkpoint& checkpoint, const PublishedMatrix& place, const BlockSize& block) {
  const auto weight = find_stored(checkpoint, place.name);
  if (!weight || checkpoint.info(*weight).type != ElementType::kF8E4M3) return {};
  const std::vector<std::int64_t> matrix = stored_matrix(place);
  expect_shape(checkpoint, *weight, with_experts(place, matrix));
  std::optional<std::string> scale;
  for (const std::string& name : scale_names(place)) {
    if (!scale) scale = find_stored(checkpoint, name);
  }
  if (!scale) fail_missing(checkpoint, *weight, scale_names(place).front());
  expect_type(checkpoint, *scale,
              {ElementType::kF32, ElementType::kBF16, ElementType::kF16, ElementType::kF8E8M0, ElementType::kU8});
  StoredTensor stored{*scale};
  const std::vector<std::int64_t>& shape = checkpoint.info(*scale).shape;
  if (place.part && checkpoint.info(*scale).element_count() != 1) {
    if (shape.empty() || shape[0] != place.experts) {
      throw bad_input(checkpoint.place_of(*scale),
                      fmt::format("has shape [{}], and it must have a part for each of {} experts",
                                  fmt::join(shape, ", "), place.experts));
    }
    stored.part = place.part;
  }
  if (!block_of(matrix[0], matrix[1], scale_shape(checkpoint, stored), block)) {
    throw bad_input(checkpoint.place_of(*scale),
                    fmt::format("has shape [{}], which does not fit a weight of [{}] in blocks of [{}]",
                                fmt::join(shape, ", "), fmt::join(matrix, ", "), fmt::join(block, ", ")),
                    "fetch the model again, or correct weight_block_size in config.json");
  }
  return {{*weight, place.part}, stored};
}

torch::Tensor read_fp8(const StoredReader& reader, const PublishedMatrix& place,
                       const std::vector<StoredTensor>& tensors, const BlockSize& block) {
  const torch::Tensor codes = reader.read(tensors[0]);
  const std::vector<std::int64_t> shape = scale_shape(reader.checkpoint(), tensors[1]);
  const std::optional<BlockSize> size = block_of(codes.size(0), codes.size(1), shape, block);
  RT_CHECK(size.has_value());
  const torch::Tensor scales = read_scales(reader, tensors[1])
                                   .reshape({ceil_div(codes.size(0), (*size)[0]), ceil_div(codes.size(1), (*size)[1])});
  const torch::Tensor matrix = dequantize_blocks(codes, Code::kE4M3, {scales, (*size)[0], (*size)[1]},
                                                 result_type(reader.checkpoint(), tensors[1].name));
  return place.transposed ? matrix.t().contiguous() : matrix;
}

}  // namespace

const Storage kFp8Storage{"FP8 (weight_scale_inv, weight_scale)", find_fp8, read_fp8};

}  // namespace roundtable
