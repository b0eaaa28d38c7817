// The one place where a tensor's address is taken for a communicator.
#include "model/load/tensor_span.h"

#include "base/error.h"

namespace roundtable {

ElementType element_type_of(torch::ScalarType dtype) {
  switch (dtype) {
    case torch::kFloat64:
      return ElementType::kF64;
    case torch::kFloat32:
      return ElementType::kF32;
    case torch::kFloat16:
      return ElementType::kF16;
    case torch::kBFloat16:
      return ElementType::kBF16;
    case torch::kInt64:
      return ElementType::kI64;
    case torch::kInt32:
      return ElementType::kI32;
    case torch::kInt8:
      return ElementType::kI8;
    case torch::kUInt8:
      return ElementType::kU8;
    case torch::kInt16:
      return ElementType::kI16;
    case torch::kBool:
      return ElementType::kBool;
    case torch::kFloat8_e4m3fn:
      return ElementType::kF8E4M3;
    case torch::kFloat8_e8m0fnu:
      return ElementType::kF8E8M0;
    default:
      RT_UNREACHABLE("dtype is neither written to files nor sent");
  }
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
