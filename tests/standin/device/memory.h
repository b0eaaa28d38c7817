// The memory of the devices. Its addresses are closed to everybody at all times: host code that reads or writes there is
// killed with a stack. What runs "on the device" reaches the same memory through a second, open range of addresses.
#pragma once

#include <cstddef>

namespace roundtable::standin {

// Null where the device's memory is full. Tensors that are made in it are filled with NaNs.
void* allocate(int device, std::size_t bytes);
void release(void* pointer);

int device_of(const void* pointer);  // -1: host memory

// The open address of device memory; host memory and null stay what they are.
void* opened(const void* pointer);

std::size_t used_bytes(int device);
std::size_t peak_bytes(int device);

}  // namespace roundtable::standin
