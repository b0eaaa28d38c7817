// The one place where a tensor's address is taken for a communicator.
#include "model/load/tensor_span.h"

#include <utility>

#include "base/error.h"

namespace roundtable {

namespace {

constexpr std::pair<ElementType, torch::ScalarType> kTypes[] = {
    {ElementType::kF64, torch::kFloat64},       {ElementType::kF32, torch::kFloat32},
    {ElementType::kF16, torch::kFloat16},       {ElementType::kBF16, torch::kBFloat16},
    {ElementType::kI64, torch::kInt64},         {ElementType::kI32, torch::kInt32},
    {ElementType::kI16, torch::kInt16},         {ElementType::kI8, torch::kInt8},
    {ElementType::kU8, torch::kUInt8},          {ElementType::kBool, torch::kBool},
    {ElementType::kF8E4M3, torch::kFloat8_e4m3fn}, {ElementType::kF8E8M0, torch::kFloat8_e8m0fnu},
};

}  // namespace

ElementType element_type_of(torch::ScalarType dtype) {
  for (const auto& [element, scalar] : kTypes) {
    if (scalar == dtype) return element;
  }
  RT_UNREACHABLE("dtype is neither written to files nor sent");
}

torch::ScalarType scalar_type_of(ElementType type) {
  for (const auto& [element, scalar] : kTypes) {
    if (element == type) return scalar;
  }
  RT_UNREACHABLE("an element type without a dtype");
}

HostSpan host_span(const torch::Tensor& tensor) {
  RT_CHECK(tensor.is_cpu() && tensor.is_contiguous());
  return {tensor.data_ptr(), tensor.numel(), element_type_of(tensor.scalar_type())};
}

DeviceSpan device_span(const torch::Tensor& tensor) {
  RT_CHECK(tensor.is_cuda() && tensor.is_contiguous());
  return {tensor.data_ptr(), tensor.numel(), element_type_of(tensor.scalar_type())};
}

}  // namespace roundtable
