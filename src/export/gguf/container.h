// Writing GGUF files, which llama.cpp reads.
//
// Source: ggml's docs/gguf.md and gguf 0.19.0 (the Python package of llama.cpp's authors), constants.py. Version 3, all
// little endian:
//
//   "GGUF" | version u32 | tensors u64 | entries u64
//   entry:  key | type u32 | value                  (a text: length u64, bytes; an array: type u32, length u64, items)
//   tensor: name | dimensions u32 | each u64, the fastest first | type u32 | offset u64, from the start of the data
//   padding to 32 bytes, then the tensors' data, each at a multiple of 32
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace roundtable {

// GGML's types of tensors that we write.
enum class GgufType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kBF16 = 30,
};

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<std::int64_t> shape;  // in elements, the slowest first, as everywhere else here
  std::uint64_t bytes = 0;
};

// The entries of a file, in the order in which they were added.
class GgufEntries {
 public:
  void add(std::string_view key, std::uint16_t value);
  void add(std::string_view key, std::uint32_t value);
  void add(std::string_view key, std::int32_t value);
  void add(std::string_view key, float value);
  void add(std::string_view key, bool value);
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add(std::string_view key, const std::vector<std::string>& values);
  void add(std::string_view key, const std::vector<std::int32_t>& values);

  std::uint64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void open(std::string_view key, std::uint32_t type);

  std::string bytes_;
  std::uint64_t count_ = 0;
};

// Where everything is in a file with these entries and tensors.
class GgufLayout {
 public:
  GgufLayout(const GgufEntries& entries, const std::vector<GgufTensor>& tensors);

  // From the file's start to the data's, padding included.
  const std::string& head() const { return head_; }
  // Of a tensor's first byte in the file.
  std::uint64_t offset(std::size_t tensor) const { return head_.size() + offsets_[tensor]; }
  std::uint64_t size() const { return head_.size() + data_; }

 private:
  std::string head_;
  std::vector<std::uint64_t> offsets_;
  std::uint64_t data_ = 0;
};

// The bytes of a tensor, which must be as many as it says.
using GgufData = std::function<std::vector<char>(std::size_t tensor)>;

// Writes a file atomically; `data` is asked for one tensor at a time, in order. Returns the digest of what was handed to
// the file system (base/hash.h).
std::string write_gguf(const std::string& path, const GgufEntries& entries, const std::vector<GgufTensor>& tensors,
                       const GgufData& data);

}  // namespace roundtable
