// In the place of CUDA's own header: what src/quant/fake_quant_cuda.cu needs, by way of simt::launch(). It follows the
// CUDA C++ Programming Guide, "Warp Vote Functions", "Warp Shuffle Functions" and "Synchronization Functions".
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>

#include "emulator.h"

#define __global__
#define __device__
#define __launch_bounds__(...)
// A block runs alone on its thread. No other variables of the program are thread_local: simt::launch() fills these.
#define __shared__ static thread_local

using cudaStream_t = void*;

enum cudaError_t { cudaSuccess };

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

// Every thread has parameters of its own, as on a GPU. The kernel is complete when this returns.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const dim3 &blocks = config->gridDim, &threads = config->blockDim;
  simt::launch({blocks.x, blocks.y, blocks.z}, {threads.x, threads.y, threads.z}, [&] { kernel(arguments...); });
  return cudaSuccess;
}

// A lane beyond the warp is the calling lane itself.
template <class T>
T __shfl_xor_sync(std::uint32_t mask, T x, std::uint32_t lane_mask,
                  const std::source_location& place = std::source_location::current()) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  const unsigned own = simt::lane();
  const unsigned source = (own ^ lane_mask) < simt::kWarp ? own ^ lane_mask : own;
  if ((mask >> source & 1) == 0) simt::fail("a shuffle reads a lane that its mask does not name", place);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof(x));
  bits = simt::exchange(mask, bits, place)[source];
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

inline int __any_sync(std::uint32_t mask, int predicate,
                      const std::source_location& place = std::source_location::current()) {
  const std::uint64_t* all = simt::exchange(mask, predicate != 0, place);
  for (unsigned i = 0; i < simt::kWarp; ++i) {
    if ((mask >> i & 1) != 0 && all[i] != 0) return 1;
  }
  return 0;
}

inline void __syncthreads(const std::source_location& place = std::source_location::current()) {
  simt::barrier(place);
}
