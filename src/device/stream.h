// The CUDA stream that LibTorch works on, without a CUDA type in sight.
#pragma once

namespace roundtable {

// A cudaStream_t of `device`, for NCCL; null in a build without CUDA, where nobody has a device to ask for.
void* current_device_stream(int device);

}  // namespace roundtable
