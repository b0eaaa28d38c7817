// Reading safetensors files; the header's JSON is in safetensors_header.cc.
#include "io/safetensors.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "io/safetensors_header.h"

namespace roundtable {

static_assert(std::endian::native == std::endian::little, "safetensors are little endian, and so are our reads");

namespace {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the reference's limit

constexpr std::pair<ElementType, std::string_view> kDtypes[] = {
    {ElementType::kF64, "F64"},   {ElementType::kF32, "F32"},        {ElementType::kF16, "F16"},
    {ElementType::kBF16, "BF16"}, {ElementType::kI64, "I64"},        {ElementType::kI32, "I32"},
    {ElementType::kI16, "I16"},   {ElementType::kI8, "I8"},          {ElementType::kU8, "U8"},
    {ElementType::kBool, "BOOL"}, {ElementType::kF8E4M3, "F8_E4M3"},
    {ElementType::kF8E8M0, "F8_E8M0"},
};

SafetensorsHeader read_header(const InputFile& file) {
  const std::string& path = file.path();
  if (file.size() < kLengthBytes) {
    throw bad_input(path, fmt::format("holds {} bytes, too few for a safetensors file", file.size()),
                    "fetch or write it again");
  }
  std::uint64_t length = 0;
  file.read_at(0, &length, kLengthBytes);
  const std::uint64_t rest = file.size() - kLengthBytes;
  if (length > kMaxHeaderBytes) {
    throw bad_input(path,
                    fmt::format("claims a header of {} bytes, and at most {} are allowed", length, kMaxHeaderBytes),
                    "it is not a safetensors file, or it is damaged");
  }
  if (length > rest) {
    throw bad_input(path, fmt::format("claims a header of {} bytes, and {} follow", length, rest),
                    "the file is cut short; fetch or write it again");
  }
  std::string text(length, '\0');
  file.read_at(kLengthBytes, text.data(), length);
  return parse_safetensors_header(text, path, kLengthBytes + length, rest - length);
}

}  // namespace

std::string_view safetensors_dtype(ElementType type) {
  for (const auto& [known, name] : kDtypes) {
    if (known == type) return name;
  }
  RT_UNREACHABLE("a type without a name");
}

std::optional<ElementType> parse_safetensors_dtype(std::string_view name) {
  for (const auto& [type, known] : kDtypes) {
    if (known == name) return type;
  }
  return std::nullopt;
}

std::int64_t TensorInfo::element_count() const { return static_cast<std::int64_t>(bytes / size_of(type)); }

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  SafetensorsHeader header = read_header(file_);
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

void SafetensorsFile::read(const TensorInfo& info, void* dst) const { file_.read_at(info.offset, dst, info.bytes); }

void SafetensorsFile::read_part(const TensorInfo& info, std::uint64_t offset, void* dst, std::size_t bytes) const {
  RT_CHECK(offset <= info.bytes && bytes <= info.bytes - offset);
  file_.read_at(info.offset + offset, dst, bytes);
}

}  // namespace roundtable
