// A layer that vLLM and SGLang make of several of a checkpoint: q, k and v; gate and up; all experts of a block. Their
// readers find its scheme by the names of its parts, or only by its own ("qkv_proj"), each format's in another way.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <vector>

#include "quant/scheme.h"

namespace roundtable {

struct FusedLayer {
  std::vector<std::optional<QuantScheme>> parts;  // empty ones stay in 16 bits; experts one after the other
  QuantScheme common;                             // what the checkpoint's config says of layers that it does not name
  std::size_t parts_per_expert = 0;               // 0: they are no experts

  static bool same(const std::optional<QuantScheme>& a, const std::optional<QuantScheme>& b) {
    if (!a || !b) return !a && !b;
    return a->bits == b->bits && a->group_size == b->group_size && a->symmetric == b->symmetric;
  }
  bool all(const std::optional<QuantScheme>& scheme) const { return first(parts.size(), scheme); }
  bool alike() const { return all(parts.front()); }
  bool first_expert_is_alike() const { return first(parts_per_expert, parts.front()); }
  bool in_16_bits() const { return all(std::nullopt); }
  bool some_in_16_bits() const {
    return std::any_of(parts.begin(), parts.end(), [](const auto& part) { return !part; });
  }

 private:
  bool first(std::size_t n, const std::optional<QuantScheme>& scheme) const {
    return std::all_of(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(n),
                       [&](const auto& part) { return same(part, scheme); });
  }
};

enum class FusedReading {
  kRight,
  kRefused,
  kMisread,  // some parts with the scheme of others
};

}  // namespace roundtable
