// Devices and streams by LibTorch's own calls. The stream is the one call that needs the headers of a CUDA toolkit.
#include "device/device.h"

#include <torch/cuda.h>
#ifdef ROUNDTABLE_CUDA
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#endif

#include "base/error.h"

namespace roundtable {

std::optional<c10::Device> cuda_device_of(int rank_in_node) {
  if (!torch::cuda::is_available()) return std::nullopt;
  const int devices = static_cast<int>(torch::cuda::device_count());
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(rank_in_node % devices));
}

std::string why_no_cuda_device() {
#ifdef ROUNDTABLE_CUDA
  try {
    c10::cuda::device_count_ensure_non_zero();
  } catch (const std::exception& error) {
    const std::string text = error.what();
    return text.substr(0, text.find('\n'));
  }
  return "LibTorch finds one now, but it did not before";
#else
  return "this build has no CUDA";
#endif
}

Stream current_stream(const c10::Device& device) {
  RT_CHECK(device.is_cuda() && device.has_index());
#ifdef ROUNDTABLE_CUDA
  return {device.index(), c10::cuda::getCurrentCUDAStream(device.index()).stream()};
#else
  return {device.index(), nullptr};
#endif
}

}  // namespace roundtable
