// Tensors of the stand-in's devices.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "tests/standin/device/races.h"

namespace roundtable::standin {

// The same memory as a tensor of the CPU, which its kernels can work on.
at::Tensor as_host(const at::Tensor& tensor);

// A new tensor with the content and the strides of one of the CPU.
at::Tensor to_device(const at::Tensor& tensor, c10::Device device, const std::string& what);

// The bytes that a tensor of a device covers; none of one of the CPU.
void add_access(std::vector<Access>& accesses, const at::Tensor& tensor, bool writes);

// What comes next is done on the current stream of `device`, after all that the stream had to do before.
void start_operator(c10::Device device, const std::vector<Access>& accesses, const std::string& what);

}  // namespace roundtable::standin
