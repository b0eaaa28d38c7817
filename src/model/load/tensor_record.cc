// Digests of tensors, and the search for numbers that are not finite.
#include "model/load/tensor_record.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace roundtable {
namespace {

// So many bytes are looked at twice while they are in the cache: for their numbers, and for the digest.
constexpr std::size_t kPiece = 64 << 10;

// The exponent of the largest of some floats, by its bits. A float is not finite if all bits of its exponent are set.
template <class Bits>
int exponent_of_largest(const void* data, std::size_t bytes, Bits exponent, int mantissa_bits) {
  const Bits* values = static_cast<const Bits*>(data);
  const std::size_t n = bytes / sizeof(Bits);
  Bits found = 0;  // without a branch in the loop, which compilers then turn into vector instructions
  for (std::size_t i = 0; i < n; ++i) found = std::max(found, static_cast<Bits>(values[i] & exponent));
  if (found == exponent) return kNotFinite;
  const int bias = static_cast<int>(exponent >> mantissa_bits) / 2;
  return std::max(1, static_cast<int>(found >> mantissa_bits)) - bias;
}

// Whether one of the bytes is `value` in the bits of `mask`: the NaN of floats of 8 bits.
bool has_byte(const void* data, std::size_t bytes, unsigned mask, unsigned value) {
  const auto* values = static_cast<const std::uint8_t*>(data);
  std::size_t found = 0;
  for (std::size_t i = 0; i < bytes; ++i) found += (values[i] & mask) == value ? 1 : 0;
  return found > 0;
}

}  // namespace

int largest_exponent(ElementType type, const void* data, std::size_t bytes) {
  switch (type) {
    case ElementType::kBF16:
      return exponent_of_largest<std::uint16_t>(data, bytes, 0x7f80, 7);
    case ElementType::kF16:
      return exponent_of_largest<std::uint16_t>(data, bytes, 0x7c00, 10);
    case ElementType::kF32:
      return exponent_of_largest<std::uint32_t>(data, bytes, 0x7f800000, 23);
    case ElementType::kF64:
      return exponent_of_largest<std::uint64_t>(data, bytes, 0x7ff0000000000000, 52);
    case ElementType::kF8E4M3:
      return has_byte(data, bytes, 0x7f, 0x7f) ? kNotFinite : 0;
    case ElementType::kF8E8M0:
      return has_byte(data, bytes, 0xff, 0xff) ? kNotFinite : 0;
    default:
      return 0;
  }
}

bool all_finite(ElementType type, const void* data, std::size_t bytes) {
  return largest_exponent(type, data, bytes) != kNotFinite;
}

Error not_finite(const std::string& place) {
  return make_error(ExitCode::kNumeric, place, "holds a value that is not finite: the model is broken",
                    "fetch the model again");
}

void TensorCheck::update(const void* data, std::size_t bytes) {
  const char* piece = static_cast<const char*>(data);
  for (std::size_t size = 0; bytes > 0; piece += size, bytes -= size) {
    size = std::min(bytes, kPiece);
    exponent_ = std::max(exponent_, largest_exponent(type_, piece, size));
    hasher_.update(piece, size);
  }
}

void TensorRecord::add(const Digests& known) {
  const std::lock_guard lock(mutex_);
  known_.insert(known.begin(), known.end());
}

bool TensorRecord::contains(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  return known_.contains(name);
}

void TensorRecord::see(const std::string& place, const std::string& name, const std::string& digest) {
  const std::lock_guard lock(mutex_);
  const auto [known, is_new] = known_.emplace(name, digest);
  if (is_new) new_.emplace(name, digest);
  if (known->second == digest) return;
  throw bad_input(place, "is not what was read of it before: the model was changed",
                  "put the earlier file back, or choose another output.path (and calibration.cache)");
}

TensorRecord::Digests TensorRecord::take_new() {
  const std::lock_guard lock(mutex_);
  return std::exchange(new_, {});
}

void TensorRecord::note_large(const std::string& name) {
  const std::lock_guard lock(mutex_);
  large_.insert(name);
}

std::set<std::string> TensorRecord::take_large() {
  const std::lock_guard lock(mutex_);
  return std::exchange(large_, {});
}

}  // namespace roundtable
