// XXH3 digests of bytes, as hexadecimal text: fingerprints of inputs and checksums of results.
// They find what changed or broke; they are no defence against an adversary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace roundtable {

std::uint64_t xxh3_64(const void* data, std::size_t bytes);

// A digest over several pieces, in order.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;

  void update(const void* data, std::size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  // 32 hexadecimal digits (XXH3, 128 bits).
  std::string digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Digest of a file's content, read in pieces. Throws Error when it cannot be read.
std::string hash_file(const std::string& path);

}  // namespace roundtable
