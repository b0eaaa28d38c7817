// Laying out and writing GGUF.
#include "export/gguf/container.h"

#include <cstring>

#include "base/error.h"
#include "base/hash.h"
#include "io/file.h"

namespace roundtable {
namespace {

constexpr std::uint64_t kAlignment = 32;

enum ValueType : std::uint32_t { kU16 = 2, kU32 = 4, kI32 = 5, kFloat = 6, kBool = 7, kText = 8, kArray = 9 };

template <class T>
void put(std::string& bytes, T value) {
  char raw[sizeof value];
  std::memcpy(raw, &value, sizeof value);
  bytes.append(raw, sizeof value);
}

void put_text(std::string& bytes, std::string_view text) {
  put<std::uint64_t>(bytes, text.size());
  bytes += text;
}

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void GgufEntries::open(std::string_view key, std::uint32_t type) {
  put_text(bytes_, key);
  put(bytes_, type);
  ++count_;
}

void GgufEntries::add(std::string_view key, std::uint16_t value) {
  open(key, kU16);
  put(bytes_, value);
}

void GgufEntries::add(std::string_view key, std::uint32_t value) {
  open(key, kU32);
  put(bytes_, value);
}

void GgufEntries::add(std::string_view key, std::int32_t value) {
  open(key, kI32);
  put(bytes_, value);
}

void GgufEntries::add(std::string_view key, float value) {
  open(key, kFloat);
  put(bytes_, value);
}

void GgufEntries::add(std::string_view key, bool value) {
  open(key, kBool);
  put<std::uint8_t>(bytes_, value ? 1 : 0);
}

void GgufEntries::add(std::string_view key, std::string_view value) {
  open(key, kText);
  put_text(bytes_, value);
}

void GgufEntries::add(std::string_view key, const std::vector<std::string>& values) {
  open(key, kArray);
  put<std::uint32_t>(bytes_, kText);
  put<std::uint64_t>(bytes_, values.size());
  for (const std::string& value : values) put_text(bytes_, value);
}

void GgufEntries::add(std::string_view key, const std::vector<std::int32_t>& values) {
  open(key, kArray);
  put<std::uint32_t>(bytes_, kI32);
  put<std::uint64_t>(bytes_, values.size());
  for (const std::int32_t value : values) put(bytes_, value);
}

GgufLayout::GgufLayout(const GgufEntries& entries, const std::vector<GgufTensor>& tensors) {
  head_ = "GGUF";
  put<std::uint32_t>(head_, 3);
  put<std::uint64_t>(head_, tensors.size());
  put<std::uint64_t>(head_, entries.count());
  head_ += entries.bytes();
  for (const GgufTensor& tensor : tensors) {
    put_text(head_, tensor.name);
    put<std::uint32_t>(head_, static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto dimension = tensor.shape.rbegin(); dimension != tensor.shape.rend(); ++dimension) {
      put<std::uint64_t>(head_, static_cast<std::uint64_t>(*dimension));
    }
    put(head_, static_cast<std::uint32_t>(tensor.type));
    put<std::uint64_t>(head_, data_);
    offsets_.push_back(data_);
    data_ += aligned(tensor.bytes);
  }
  head_.resize(aligned(head_.size()), '\0');
}

std::string write_gguf(const std::string& path, const GgufEntries& entries, const std::vector<GgufTensor>& tensors,
                       const GgufData& data) {
  const GgufLayout layout(entries, tensors);
  Hasher hasher;
  write_file_atomically(path, [&](OutputFile& file) {
    const auto put = [&](const void* bytes, std::size_t size) {
      hasher.update(bytes, size);
      file.write(bytes, size);
    };
    put(layout.head().data(), layout.head().size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      std::vector<char> bytes = data(i);
      RT_CHECK(bytes.size() == tensors[i].bytes && file.position() == layout.offset(i));
      bytes.resize(aligned(bytes.size()), '\0');
      put(bytes.data(), bytes.size());
    }
  });
  return hasher.digest();
}

}  // namespace roundtable
