// Tensors as spans of memory, for communicators and files.
#pragma once

#include <torch/types.h>

#include "base/element_type.h"
#include "comm/communicator.h"

namespace roundtable {

// The element type of a torch dtype.
ElementType element_type_of(torch::ScalarType dtype);
// And back: every element type has a dtype of its own.
torch::ScalarType scalar_type_of(ElementType type);

// The memory of a contiguous tensor, which must outlive the span. It is a bug of ours, and a fault, to ask for the
// memory of the host where the tensor is on a device, or the other way round.
HostSpan host_span(const torch::Tensor& tensor);
DeviceSpan device_span(const torch::Tensor& tensor);

}  // namespace roundtable
