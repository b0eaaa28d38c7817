// Element types of tensors in files and messages, without any library's own enum.
#pragma once

#include <cstddef>
#include <cstdint>

namespace roundtable {

enum class ElementType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool, kF8E4M3, kF8E8M0 };

constexpr std::size_t size_of(ElementType type) {
  switch (type) {
    case ElementType::kF64:
    case ElementType::kI64:
      return 8;
    case ElementType::kF32:
    case ElementType::kI32:
      return 4;
    case ElementType::kF16:
    case ElementType::kBF16:
    case ElementType::kI16:
      return 2;
    default:
      return 1;
  }
}

}  // namespace roundtable
