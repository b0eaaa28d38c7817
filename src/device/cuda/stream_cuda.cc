// The stream from LibTorch's CUDA part.
#include <c10/cuda/CUDAStream.h>

#include "device/stream.h"

namespace roundtable {

void* current_device_stream(int device) {
  return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)).stream();
}

}  // namespace roundtable
