// What a run knows of the bytes of its model: the digest of each tensor, found when the tensor is first read, and
// compared whenever it is read again. So a model that is exchanged in the middle of a run is found before anything of
// it is mixed with what was made from the old one, and no read is made for it.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <string>

#include "base/element_type.h"
#include "base/error.h"
#include "base/hash.h"

namespace roundtable {

// Whether no number among these `bytes` bytes is NaN or infinite. True for types that are no floats of 16, 32 or 64
// bits. `data` is aligned to its elements.
bool all_finite(ElementType type, const void* data, std::size_t bytes);

// The Error (kNumeric) of the tensor at `place`.
Error not_finite(const std::string& place);

// Looks at a tensor's bytes piece by piece, as they are read; a piece holds whole elements.
class TensorCheck {
 public:
  explicit TensorCheck(ElementType type) : type_(type) {}

  void update(const void* data, std::size_t bytes);
  bool finite() const { return finite_; }
  std::string digest() const { return hasher_.digest(); }

 private:
  ElementType type_;
  bool finite_ = true;
  Hasher hasher_;
};

// By the tensors' names in the checkpoint. Thread-safe.
class TensorRecord {
 public:
  using Digests = std::map<std::string, std::string>;

  // Digests that an earlier start of the run, or another rank, has found. Those that are known already stay.
  void add(const Digests& known);
  bool contains(const std::string& name) const;

  // Keeps the digest, or compares it with the one that is known. Throws Error (kBadInput) that begins with `place`
  // where they differ.
  void see(const std::string& place, const std::string& name, const std::string& digest);

  // What see() has kept since the last call.
  Digests take_new();

 private:
  mutable std::mutex mutex_;
  Digests known_;
  Digests new_;  // a part of known_
};

}  // namespace roundtable
