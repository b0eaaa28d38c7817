// What the calls of CUDA's runtime share.
#pragma once

#include <cuda_runtime_api.h>

#include "tests/standin/device/stream.h"

namespace roundtable::standin {

// CUDA's current device of this thread; a thread begins with device 0.
int current_device();

// The result of a call, which cudaGetLastError() gives, too. Once the device is broken every call answers so.
cudaError_t answer(cudaError_t result);

// Counts an operator or a kernel; the one that the settings name breaks the device.
void count_work();

Stream& stream_of(const Lock& lock, cudaStream_t handle);  // null: the default stream of the current device
cudaStream_t handle_of(Stream* stream);

}  // namespace roundtable::standin
