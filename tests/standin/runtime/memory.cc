// CUDA's runtime: memory and copies.
#include <cstdlib>
#include <cstring>

#include "tests/standin/device/checks.h"
#include "tests/standin/device/memory.h"
#include "tests/standin/device/settings.h"
#include "tests/standin/runtime/state.h"

using namespace roundtable::standin;

namespace {

void copy(Lock& lock, Stream& stream, void* to, const void* from, std::size_t bytes) {
  start_now(lock, stream, {{from, bytes, false}, {to, bytes, true}}, "cudaMemcpy");
  if (device_of(to) >= 0 && device_of(from) < 0) ++counts().to_device;
  if (device_of(to) < 0 && device_of(from) >= 0) ++counts().from_device;
  std::memmove(opened(to), opened(from), bytes);
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  note_context(current_device(), "cudaMalloc");
  *pointer = allocate(current_device(), bytes);
  return answer(*pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return answer(cudaSuccess);
  Lock lock = lock_streams();
  wait_for_device(lock, device_of(pointer));  // as CUDA's
  release(pointer);
  return answer(cudaSuccess);
}

cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t) { return cudaMalloc(pointer, bytes); }

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t handle) {
  Lock lock = lock_streams();
  Stream& stream = stream_of(lock, handle);
  start_now(lock, stream, {{pointer, 1, true}}, "cudaFreeAsync");
  release(pointer);
  return answer(cudaSuccess);
}

cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  *pointer = std::malloc(bytes);
  return answer(cudaSuccess);
}
cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned) { return cudaMallocHost(pointer, bytes); }
cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return answer(cudaSuccess);
}

cudaError_t cudaMemGetInfo(std::size_t* spare, std::size_t* total) {
  note_context(current_device(), "cudaMemGetInfo");
  *total = settings().memory;
  *spare = *total - used_bytes(current_device());
  return answer(cudaSuccess);
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  Lock lock = lock_streams();
  Stream& stream = stream_of(lock, nullptr);
  copy(lock, stream, to, from, bytes);
  wait_for(lock, stream, stream.started);
  return answer(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t handle) {
  Lock lock = lock_streams();
  copy(lock, stream_of(lock, handle), to, from, bytes);
  return answer(cudaSuccess);
}

cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, std::size_t bytes, cudaStream_t handle) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle);
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t handle) {
  Lock lock = lock_streams();
  start_now(lock, stream_of(lock, handle), {{to, bytes, true}}, "cudaMemsetAsync");
  std::memset(opened(to), value, bytes);
  return answer(cudaSuccess);
}

}  // extern "C"
