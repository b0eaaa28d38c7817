// The table, and what its entries share.
#include "model/load/published/storage.h"

#include <fmt/ranges.h>
#include <torch/types.h>

#include <algorithm>

#include "base/error.h"
#include "model/load/published/decode.h"
#include "model/load/tensor_source.h"

namespace roundtable {

const std::vector<const Storage*>& storages() {
  static const std::vector<const Storage*> all = {&kFloatStorage, &kFp8Storage, &kMxFp4Storage, &kPackedFp4Storage,
                                                  &kPackedIntStorage};
  return all;
}

std::optional<std::string> find_stored(const Checkpoint& checkpoint, const std::string& name) {
  std::string stored = stored_name(checkpoint, name);
  return checkpoint.contains(stored) ? std::optional(std::move(stored)) : std::nullopt;
}

std::string layer_of(const std::string& name) {
  constexpr std::string_view kWeight = ".weight";
  return name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name;
}

std::vector<std::int64_t> stored_matrix(const PublishedMatrix& place) {
  return place.transposed ? std::vector{place.in, place.out} : std::vector{place.out, place.in};
}

std::vector<std::int64_t> with_experts(const PublishedMatrix& place, std::vector<std::int64_t> shape) {
  if (place.part) shape.insert(shape.begin(), place.experts);
  return shape;
}

void expect_shape(const Checkpoint& checkpoint, const std::string& stored, const std::vector<std::int64_t>& shape) {
  const TensorInfo& info = checkpoint.info(stored);
  if (info.shape == shape) return;
  throw bad_input(
      checkpoint.place_of(stored),
      fmt::format("has shape [{}] and config.json calls for [{}]", fmt::join(info.shape, ", "), fmt::join(shape, ", ")),
      "fetch the model again, or correct config.json");
}

void expect_type(const Checkpoint& checkpoint, const std::string& stored, const std::vector<ElementType>& types) {
  const ElementType found = checkpoint.info(stored).type;
  if (std::find(types.begin(), types.end(), found) != types.end()) return;
  std::vector<std::string_view> names;
  for (const ElementType type : types) names.push_back(safetensors_dtype(type));
  throw bad_input(checkpoint.place_of(stored),
                  fmt::format("is of type {}, and it must be {}", safetensors_dtype(found), fmt::join(names, " or ")),
                  "fetch the model again, or quantize from the float model");
}

void fail_missing(const Checkpoint& checkpoint, const std::string& weight, const std::string& scale) {
  throw bad_input(checkpoint.place_of(weight),
                  fmt::format("is of type {}; weights are F32, F16 or BF16, or have a scale, and '{}' is missing",
                              safetensors_dtype(checkpoint.info(weight).type), scale),
                  "fetch the rest of the model, convert it, or quantize from the float model");
}

torch::Tensor read_scales(const StoredReader& reader, const StoredTensor& tensor) {
  const ElementType type = reader.checkpoint().info(tensor.name).type;
  const torch::Tensor stored = reader.read(tensor);
  torch::Tensor scales;
  if (type == ElementType::kF8E8M0 || type == ElementType::kU8) {
    scales = e8m0_values(stored);
  } else if (type == ElementType::kF8E4M3) {
    scales = e4m3_values(stored);
  } else {
    scales = stored.to(torch::kFloat32);
  }
  if (!scales.isfinite().all().item<bool>()) throw not_finite(reader.checkpoint().place_of(tensor.name));
  return scales;
}

torch::ScalarType result_type(const Checkpoint& checkpoint, const std::string& scale) {
  return checkpoint.info(scale).type == ElementType::kF16 ? torch::kFloat16 : torch::kBFloat16;
}

}  // namespace roundtable
