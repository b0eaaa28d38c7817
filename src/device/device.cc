// Devices and streams by LibTorch's own calls. Some of them need the headers of a CUDA toolkit.
#include "device/device.h"

#include <ATen/Context.h>
#include <torch/cuda.h>
#ifdef ROUNDTABLE_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#endif

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "base/text.h"

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
    return first_line(error.what());
  }
  return "LibTorch finds one now, but it did not before";
#else
  return "this build has no CUDA";
#endif
}

DeviceIdentity identity_of(const c10::Device& device) {
  RT_CHECK(device.is_cuda() && device.has_index());
#ifdef ROUNDTABLE_CUDA
  cudaDeviceProp properties{};
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device.index()));
  std::string uuid = "GPU";
  for (std::size_t i = 0; i < sizeof(properties.uuid.bytes); ++i) {
    const bool dash = i == 0 || i == 4 || i == 6 || i == 8 || i == 10;
    uuid += fmt::format("{}{:02x}", dash ? "-" : "", static_cast<unsigned char>(properties.uuid.bytes[i]));
  }
  return {properties.name, uuid};
#else
  return {};
#endif
}

void use_device([[maybe_unused]] const c10::Device& device) {
#ifdef ROUNDTABLE_CUDA
  if (!device.is_cuda()) return;
  c10::cuda::set_device(device.index());
  at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);  // the allocator knows no device before that
#endif
}

void ask_for_determinism() {
  // cuBLAS reads it when it is first used. Its other deterministic value is smaller and slower: whoever set it may have it.
  constexpr const char* kWorkspace = "CUBLAS_WORKSPACE_CONFIG";
  const char* present = std::getenv(kWorkspace);
  if (present == nullptr || std::string_view(present) != ":16:8") ::setenv(kWorkspace, ":4096:8", 1);
  at::Context& context = at::globalContext();
  context.setDeterministicAlgorithms(true, /*warn_only=*/false);
  context.setDeterministicCuDNN(true);
  // Otherwise LibTorch would write NaN into every new tensor, which costs a pass over it.
  context.setDeterministicFillUninitializedMemory(false);
}

std::int64_t peak_device_bytes([[maybe_unused]] const c10::Device& device) {
#ifdef ROUNDTABLE_CUDA
  constexpr auto kAll = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  if (device.is_cuda()) return c10::cuda::CUDACachingAllocator::getDeviceStats(device.index()).reserved_bytes[kAll].peak;
#endif
  return 0;
}

void reset_peak_device_bytes([[maybe_unused]] const c10::Device& device) {
#ifdef ROUNDTABLE_CUDA
  if (device.is_cuda()) c10::cuda::CUDACachingAllocator::resetPeakStats(device.index());
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
