// What a run knows of the bytes of its model: the digest of each tensor, found when the tensor is first read, and
// compared whenever it is read again. So a model that is exchanged in the middle of a run is found before anything of
// it is mixed with what was made from the old one, and no read is made for it.
#pragma once

#include <cstddef>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "base/element_type.h"
#include "base/error.h"
#include "base/hash.h"

namespace roundtable {

// Whether no number among these `bytes` bytes is NaN or infinite. True for types that are no floats. `data` is aligned
// to its elements.
bool all_finite(ElementType type, const void* data, std::size_t bytes);

// The largest floor(log2(|x|)) of these numbers, where NaN and infinities count as 2^kNotFinite; at least that of the
// type's least normal number, and 0 for types that all_finite() does not look into.
inline constexpr int kNotFinite = 1 << 12;
// Below 2^15 the scale of every scheme fits fp16: at 2 bits it is up to two thirds of a weight.
inline constexpr int kLargeExponent = 15;
int largest_exponent(ElementType type, const void* data, std::size_t bytes);

// The Error (kNumeric) of the tensor at `place`.
Error not_finite(const std::string& place);

// Looks at a tensor's bytes piece by piece, as they are read; a piece holds whole elements.
class TensorCheck {
 public:
  explicit TensorCheck(ElementType type) : type_(type) {}

  void update(const void* data, std::size_t bytes);
  bool finite() const { return exponent_ != kNotFinite; }
  int exponent() const { return exponent_; }  // largest_exponent() of all of it
  std::string digest() const { return hasher_.digest(); }

 private:
  ElementType type_;
  int exponent_ = std::numeric_limits<int>::min();
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

  // Names of tensors with weights so large that their scales may not fit fp16, since the last take_large().
  void note_large(const std::string& name);
  std::set<std::string> take_large();

 private:
  mutable std::mutex mutex_;
  Digests known_;
  Digests new_;  // a part of known_
  std::set<std::string> large_;
};

}  // namespace roundtable
