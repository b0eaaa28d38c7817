// Writing safetensors files, with the same bytes as the reference.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/hash.h"
#include "io/safetensors.h"

namespace roundtable {

namespace {

// The reference's order of types, by alignment.
int rank_of(ElementType type) {
  switch (type) {
    case ElementType::kBool:
      return 0;
    case ElementType::kU8:
      return 1;
    case ElementType::kI8:
      return 2;
    case ElementType::kF8E4M3:
      return 3;
    case ElementType::kF8E8M0:
      return 4;
    case ElementType::kI16:
      return 5;
    case ElementType::kF16:
      return 6;
    case ElementType::kBF16:
      return 7;
    case ElementType::kI32:
      return 8;
    case ElementType::kF32:
      return 9;
    case ElementType::kF64:
      return 10;
    case ElementType::kI64:
      return 11;
  }
  RT_UNREACHABLE("a type without a rank");
}

std::vector<const TensorView*> in_file_order(const std::vector<TensorView>& tensors) {
  std::vector<const TensorView*> order;
  for (const TensorView& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorView* a, const TensorView* b) {
    const int left = rank_of(a->type), right = rank_of(b->type);
    return left != right ? left > right : a->name < b->name;
  });
  return order;
}

std::uint64_t view_bytes(const TensorView& tensor) {
  std::uint64_t bytes = size_of(tensor.type);
  for (const std::int64_t dimension : tensor.shape) {
    RT_CHECK(dimension >= 0);
    bytes *= static_cast<std::uint64_t>(dimension);
  }
  return bytes;
}

// Written by hand: the order of the members is part of the format's bytes, and a JSON object would sort them.
std::string header_text(const std::vector<const TensorView*>& order,
                        const std::map<std::string, std::string>& metadata) {
  std::vector<std::string> members;
  if (!metadata.empty()) members.push_back(fmt::format("\"__metadata__\":{}", nlohmann::json(metadata).dump()));
  std::uint64_t offset = 0;
  for (const TensorView* tensor : order) {
    const std::uint64_t end = offset + view_bytes(*tensor);
    members.push_back(fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                                  nlohmann::json(tensor->name).dump(), safetensors_dtype(tensor->type),
                                  fmt::join(tensor->shape, ","), offset, end));
    offset = end;
  }
  std::string text = fmt::format("{{{}}}", fmt::join(members, ","));
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

void check_names(const std::vector<TensorView>& tensors) {
  std::set<std::string_view> names;
  for (const TensorView& tensor : tensors) {
    RT_CHECK(tensor.name != "__metadata__");
    RT_CHECK(names.insert(tensor.name).second);
  }
}

}  // namespace

WrittenFile write_safetensors(const std::string& path, const std::vector<TensorView>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  check_names(tensors);
  const std::vector<const TensorView*> order = in_file_order(tensors);
  const std::string header = header_text(order, metadata);
  const std::uint64_t length = header.size();
  Hasher hasher;
  WrittenFile written;
  write_file_atomically(path, [&](OutputFile& out) {
    const auto put = [&](const void* data, std::size_t bytes) {
      hasher.update(data, bytes);
      out.write(data, bytes);
    };
    put(&length, sizeof length);
    put(header.data(), header.size());
    for (const TensorView* tensor : order) {
      const std::uint64_t bytes = view_bytes(*tensor);
      RT_CHECK(bytes == 0 || tensor->data != nullptr);
      if (bytes > 0) put(tensor->data, bytes);
    }
    written.bytes = out.position();
  });
  written.digest = hasher.digest();
  return written;
}

}  // namespace roundtable
