// The safetensors format: https://github.com/huggingface/safetensors
//
//   +--------+---------------------------------------------------------+---------------------------------+
//   | u64 LE | N bytes of JSON, an object, padded with spaces          | the tensors' bytes, row-major,  |
//   | N      | {"__metadata__": {"k": "v"},                            | little endian, in file order,   |
//   |        |  "name": {"dtype": "F32", "shape": [2, 3],              | no holes, no overlap, nothing   |
//   |        |           "data_offsets": [begin, end]}}                | behind the last one             |
//   +--------+---------------------------------------------------------+---------------------------------+
//   0        8                                                         8 + N: data_offsets count from here
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/element_type.h"
#include "io/file.h"

namespace roundtable {

// The format's own names: "BF16", "F32", "I64", "BOOL". Nothing for a type that is unknown or not supported (F8_E5M2).
std::string_view safetensors_dtype(ElementType type);
std::optional<ElementType> parse_safetensors_dtype(std::string_view name);

struct TensorInfo {
  std::string name;
  ElementType type = ElementType::kF32;
  std::vector<std::int64_t> shape;  // no negative dimension; empty for a scalar
  std::uint64_t offset = 0;         // from the start of the file
  std::uint64_t bytes = 0;          // element_count() * size_of(type)

  std::int64_t element_count() const;
};

using TensorMap = std::map<std::string, TensorInfo, std::less<>>;

// A safetensors file, open for reading. The constructor reads the header and checks all of it, as the reference does
// and beyond (names that occur twice are refused): whoever holds an object may read every tensor it lists. The memory
// that it needs depends on the header's real size, not on the size that the file claims. All errors are bad input,
// "path: tensor 'x': problem; fix".
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const TensorMap& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // Null where there is no such tensor; valid as long as this object.
  const TensorInfo* find(std::string_view name) const;
  // Copies info.bytes bytes to `dst`. `info` is one of this file's. Thread-safe.
  void read(const TensorInfo& info, void* dst) const;
  // The same for `bytes` of its bytes, from its byte `offset` on.
  void read_part(const TensorInfo& info, std::uint64_t offset, void* dst, std::size_t bytes) const;

 private:
  InputFile file_;
  TensorMap tensors_;
  std::map<std::string, std::string> metadata_;
};

// A tensor in memory that is to be written: row-major and dense. The caller owns the bytes.
struct TensorView {
  std::string name;
  ElementType type = ElementType::kF32;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;
};

struct WrittenFile {
  std::uint64_t bytes = 0;
  std::string digest;  // equals hash_file(path): computed from what was handed to the file system, so that a later
                       // hash_file proves that the disk holds it
};

// Writes a file atomically (see io/file.h). The bytes are those that the reference writes for the same tensors: widest
// types first, then by name, so that each tensor lies aligned to its elements; the order of `tensors` does not matter.
// Hugging Face's loaders ask for metadata {"format": "pt"}.
WrittenFile write_safetensors(const std::string& path, const std::vector<TensorView>& tensors,
                              const std::map<std::string, std::string>& metadata = {});

}  // namespace roundtable
