// Reading, and judging what was read.
#include "model/load/stored_reader.h"

#include <torch/types.h>

#include <algorithm>

#include "base/error.h"
#include "model/load/tensor_span.h"

namespace roundtable {
namespace {

constexpr std::uint64_t kLookedAtOnce = 4 << 20;  // a multiple of every element's size

struct Range {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

Range range_of(const TensorInfo& info, const StoredTensor& tensor) {
  if (!tensor.part) return {0, info.bytes};
  RT_CHECK(!info.shape.empty() && *tensor.part >= 0 && *tensor.part < info.shape[0]);
  const std::uint64_t bytes = info.bytes / static_cast<std::uint64_t>(info.shape[0]);
  return {static_cast<std::uint64_t>(*tensor.part) * bytes, bytes};
}

// Numbers of one byte are bytes to what decodes them.
torch::ScalarType dtype_of(ElementType type, const std::string& place) {
  if (type == ElementType::kF64 || type == ElementType::kI16 || type == ElementType::kBool) {
    throw bad_input(place, "is not a float tensor (F32, F16 or BF16)", "quantize from the float model");
  }
  return size_of(type) == 1 ? torch::kUInt8 : scalar_type_of(type);
}

}  // namespace

std::vector<std::int64_t> StoredReader::shape(const StoredTensor& tensor) const {
  const std::vector<std::int64_t>& shape = checkpoint_.info(tensor.name).shape;
  return tensor.part ? std::vector<std::int64_t>(shape.begin() + 1, shape.end()) : shape;
}

void StoredReader::read_to(const StoredTensor& tensor, void* dst) const {
  const TensorInfo& info = checkpoint_.info(tensor.name);
  const Range range = range_of(info, tensor);
  checkpoint_.read_part(tensor.name, range.offset, dst, range.bytes);
  TensorCheck check(info.type);
  check.update(dst, range.bytes);
  judge(tensor, check);
}

std::vector<char> StoredReader::read_bytes(const StoredTensor& tensor) const {
  std::vector<char> bytes(range_of(checkpoint_.info(tensor.name), tensor).bytes);
  read_to(tensor, bytes.data());
  return bytes;
}

torch::Tensor StoredReader::read(const StoredTensor& tensor) const {
  const TensorInfo& info = checkpoint_.info(tensor.name);
  torch::Tensor result = torch::empty(shape(tensor), dtype_of(info.type, checkpoint_.place_of(tensor.name)));
  read_to(tensor, result.data_ptr());
  return result;
}

void StoredReader::look_at(const StoredTensor& tensor) const {
  const TensorInfo& info = checkpoint_.info(tensor.name);
  const Range range = range_of(info, tensor);
  std::vector<char> piece(std::min(range.bytes, kLookedAtOnce));
  TensorCheck check(info.type);
  for (std::uint64_t done = 0; done < range.bytes; done += piece.size()) {
    const std::size_t size = std::min<std::uint64_t>(piece.size(), range.bytes - done);
    checkpoint_.read_part(tensor.name, range.offset + done, piece.data(), size);
    check.update(piece.data(), size);
  }
  judge(tensor, check);
}

void StoredReader::judge(const StoredTensor& tensor, const TensorCheck& check) const {
  const std::string place = checkpoint_.place_of(tensor.name);
  if (!check.finite()) throw not_finite(place);
  if (record_ == nullptr) return;
  record_->see(place, tensor.record_name(), check.digest());
  if (check.exponent() >= kLargeExponent) record_->note_large(tensor.name);
}

}  // namespace roundtable
