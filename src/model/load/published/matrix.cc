// Finding the slices, and putting them together.
#include "model/load/published/matrix.h"

#include <torch/types.h>

#include <algorithm>

#include "base/error.h"

namespace roundtable {
namespace {

FoundSlice find_slice(const Checkpoint& checkpoint, const MatrixSlice& slice, const BlockSize& block) {
  for (const Storage* storage : storages()) {
    std::vector<StoredTensor> tensors = storage->find(checkpoint, slice.place, block);
    if (!tensors.empty()) return {slice, storage, std::move(tensors)};
  }
  return {slice, nullptr, {}};
}

// Nothing if no slice is there. Throws Error (kBadInput) if only some are.
std::vector<FoundSlice> find_form(const Checkpoint& checkpoint, const std::vector<MatrixSlice>& form,
                                  const BlockSize& block) {
  std::vector<FoundSlice> found;
  for (const MatrixSlice& slice : form) found.push_back(find_slice(checkpoint, slice, block));
  const auto missing = [](const FoundSlice& slice) { return slice.storage == nullptr; };
  if (std::all_of(found.begin(), found.end(), missing)) return {};
  for (const FoundSlice& slice : found) {
    if (missing(slice)) checkpoint.info(slice.slice.place.name);  // throws: it is missing, or of another type
    if (missing(slice)) expect_type(checkpoint, slice.slice.place.name, {ElementType::kF32, ElementType::kBF16});
  }
  return found;
}

}  // namespace

std::vector<FoundSlice> find_matrix(const Checkpoint& checkpoint, const ParameterSpec& spec, const BlockSize& block) {
  if (spec.shape.size() != 2) return {};
  PublishedMatrix place{spec.tensor()};
  place.out = spec.shape[0];
  place.in = spec.shape[1];
  place.transposed = spec.transposed;
  if (spec.stack) {
    place.part = spec.stack->index;
    place.experts = spec.stack->experts;
  }
  std::vector<FoundSlice> found = find_form(checkpoint, {{place, 0, place.out}}, block);
  if (!found.empty()) return found;
  for (const std::vector<MatrixSlice>& form : other_forms(checkpoint, spec)) {
    found = find_form(checkpoint, form, block);
    if (!found.empty()) return found;
  }
  return {};
}

torch::Tensor read_matrix(const StoredReader& reader, const std::vector<FoundSlice>& slices, const BlockSize& block) {
  std::vector<torch::Tensor> rows;
  bool wide = false;
  for (const FoundSlice& found : slices) {
    const torch::Tensor matrix = found.storage->read(reader, found.slice.place, found.tensors, block);
    // Finite codes and scales can have a product that is not.
    if (!matrix.isfinite().all().item<bool>()) throw not_finite(reader.checkpoint().place_of(found.tensors[0].name));
    rows.push_back(matrix.narrow(0, found.slice.first, found.slice.rows));
    wide = wide || matrix.scalar_type() != torch::kBFloat16;
  }
  for (torch::Tensor& part : rows) part = part.to(wide ? torch::kFloat32 : torch::kBFloat16).contiguous();
  return rows.size() == 1 ? rows[0] : torch::cat(rows);
}

}  // namespace roundtable
