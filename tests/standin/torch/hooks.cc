// What LibTorch's core asks of its library for CUDA, and pinned memory.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>

#include "tests/standin/device/checks.h"
#include "tests/standin/device/memory.h"
#include "tests/standin/device/stream.h"

// In no header: LibTorch declares it where its own hooks are, ATen/cuda/detail/CUDAHooks.cpp.
namespace c10::cuda::_internal {
void setHasPrimaryContext(bool (*has)(DeviceIndex));
}

namespace roundtable::standin {
namespace {

class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* pointer = std::malloc(bytes + 1);
    const std::lock_guard lock(mutex_);
    given_.insert(pointer);
    return {pointer, pointer, &free_pinned, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }

  bool gave(const void* pointer) {
    const std::lock_guard lock(mutex_);
    return given_.count(pointer) > 0;
  }

  static PinnedAllocator& instance() {
    static auto* made = new PinnedAllocator;
    return *made;
  }

 private:
  static void free_pinned(void* pointer) {
    drop_deliveries(lock_streams(), pointer);
    {
      const std::lock_guard lock(instance().mutex_);
      instance().given_.erase(pointer);
    }
    std::free(pointer);
  }

  std::mutex mutex_;
  std::set<const void*> given_;
};

}  // namespace

// The registry wants a constructor of this form.
struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {
    c10::cuda::_internal::setHasPrimaryContext([](c10::DeviceIndex device) { return has_context(device); });
  }
  void init() const override {
    c10::cuda::CUDACachingAllocator::init(c10::cuda::device_count_ensure_non_zero());
  }
  bool hasCUDA() const override { return c10::cuda::device_count() > 0; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return hasCUDA(); }
  bool hasPrimaryContext(c10::DeviceIndex device) const override { return has_context(device); }
  c10::DeviceIndex deviceCount() const override { return c10::cuda::device_count(); }
  int getNumGPUs() const override { return c10::cuda::device_count(); }
  c10::DeviceIndex current_device() const override { return c10::cuda::current_device(); }
  c10::DeviceIndex getCurrentDevice() const override { return c10::cuda::current_device(); }
  void setCurrentDevice(c10::DeviceIndex device) const override { c10::cuda::set_device(device); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override { return c10::cuda::ExchangeDevice(device); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override {
    return c10::cuda::MaybeExchangeDevice(device);
  }
  void deviceSynchronize(c10::DeviceIndex device) const override {
    const c10::DeviceGuard guard({c10::kCUDA, device});
    c10::cuda::device_synchronize();
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static const at::Generator made = at::detail::createCPUGenerator();
    return made;
  }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &PinnedAllocator::instance(); }
  c10::Allocator* getCUDADeviceAllocator() const override { return c10::cuda::CUDACachingAllocator::get(); }
  bool isPinnedPtr(const void* pointer) const override { return PinnedAllocator::instance().gave(pointer); }
  c10::Device getDeviceFromPtr(void* pointer) const override {
    return {c10::kCUDA, static_cast<c10::DeviceIndex>(device_of(pointer))};
  }
};

}  // namespace roundtable::standin

namespace at {
using CUDAHooks = roundtable::standin::Hooks;
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at
