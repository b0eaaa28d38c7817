// CUDA's runtime: devices and errors.
#include <atomic>
#include <cstdio>
#include <cstring>

#include "tests/standin/device/checks.h"
#include "tests/standin/device/memory.h"
#include "tests/standin/device/settings.h"
#include "tests/standin/runtime/state.h"

namespace roundtable::standin {
namespace {

constexpr int kRuntimeVersion = 13000;

thread_local int current = 0;
thread_local cudaError_t last = cudaSuccess;
std::atomic<std::int64_t> work_done{0};
std::atomic<bool> broken{false};

cudaError_t devices_or_reason(int* count) {
  const Settings& s = settings();
  *count = 0;
  if (s.driver == 0 || (s.driver > 0 && s.driver < kRuntimeVersion)) return cudaErrorInsufficientDriver;
  if (s.devices <= 0) return cudaErrorNoDevice;
  *count = s.devices;
  return cudaSuccess;
}

bool is_device(int device) {
  int count = 0;
  return devices_or_reason(&count) == cudaSuccess && device >= 0 && device < count;
}

}  // namespace

int current_device() { return current; }

cudaError_t answer(cudaError_t result) {
  if (broken) result = cudaErrorIllegalAddress;
  if (result != cudaSuccess && result != cudaErrorNotReady) last = result;
  return result;
}

void count_work() {
  if (++work_done == settings().broken.count) {
    broken = true;
    last = cudaErrorIllegalAddress;
  }
}

}  // namespace roundtable::standin

using namespace roundtable::standin;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) { return answer(devices_or_reason(count)); }

cudaError_t cudaGetDevice(int* device) {
  int count = 0;
  const cudaError_t reason = devices_or_reason(&count);
  if (reason == cudaSuccess) *device = current;
  return answer(reason);
}

cudaError_t cudaSetDevice(int device) {
  if (!is_device(device)) return answer(cudaErrorInvalidDevice);
  current = device;
  note_context(device, "cudaSetDevice");
  return answer(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize() {
  Lock lock = lock_streams();
  note_context(current, "cudaDeviceSynchronize");
  wait_for_device(lock, current);
  return answer(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!is_device(device)) return answer(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = settings().capability / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = settings().capability % 10; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrPciBusId: *value = device + 1; break;
    default: *value = 0;
  }
  return answer(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (!is_device(device)) return answer(cudaErrorInvalidDevice);
  std::memset(p, 0, sizeof *p);
  std::snprintf(p->name, sizeof p->name, "%s", settings().name.c_str());
  p->totalGlobalMem = settings().memory;
  p->major = settings().capability / 10;
  p->minor = settings().capability % 10;
  p->multiProcessorCount = 132;
  p->warpSize = 32;
  p->pciBusID = device + 1;
  p->uuid.bytes[0] = static_cast<char>(device + 1);
  return answer(cudaSuccess);
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (!is_device(device)) return answer(cudaErrorInvalidDevice);
  std::snprintf(text, static_cast<std::size_t>(length), "0000:%02X:00.0", device + 1);
  return answer(cudaSuccess);
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = settings().driver;
  return answer(cudaSuccess);
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kRuntimeVersion;
  return answer(cudaSuccess);
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return answer(cudaSuccess);
}

cudaError_t cudaGetLastError() {
  const cudaError_t result = broken ? cudaErrorIllegalAddress : last;
  last = cudaSuccess;
  return result;
}
cudaError_t cudaPeekAtLastError() { return broken ? cudaErrorIllegalAddress : last; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    default: return "cudaErrorUnknown";
  }
}

// CUDA's own texts.
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorNotSupported: return "operation not supported";
    default: return "unknown error";
  }
}

}  // extern "C"
