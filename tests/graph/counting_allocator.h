// What LibTorch's CPU allocator holds at the moment, and the most it held.
#pragma once

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <mutex>

namespace roundtable::testing {

class CountingAllocator final : public c10::Allocator {
 public:
  // Takes the place of LibTorch's allocator while it lives. One at a time.
  CountingAllocator() : inner_(c10::GetCPUAllocator()) {
    sizes().clear();
    held() = most() = 0;
    c10::SetCPUAllocator(this, 100);
  }
  ~CountingAllocator() override { c10::SetCPUAllocator(inner_, 100); }

  c10::DataPtr allocate(std::size_t bytes) override {
    c10::DataPtr data = inner_->allocate(bytes);
    void* at = data.get();
    const std::lock_guard lock(mutex());
    inner_deleter() = data.get_deleter();
    sizes()[at] = bytes;
    held() += bytes;
    most() = std::max(most(), held());
    data.release_context();
    return {at, at, &CountingAllocator::release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &CountingAllocator::release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  static std::size_t now() { return held(); }
  // The most that was held since restart(), above `base`.
  static std::size_t peak_above(std::size_t base) { return most() - base; }
  static void restart() { most() = held(); }

 private:
  static void release(void* at) {
    {
      const std::lock_guard lock(mutex());
      const auto found = sizes().find(at);
      if (found != sizes().end()) {
        held() -= found->second;
        sizes().erase(found);
      }
    }
    inner_deleter()(at);
  }
  static std::map<void*, std::size_t>& sizes() {
    static std::map<void*, std::size_t> all;
    return all;
  }
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  static std::size_t& held() {
    static std::size_t bytes = 0;
    return bytes;
  }
  static std::size_t& most() {
    static std::size_t bytes = 0;
    return bytes;
  }
  static c10::DeleterFnPtr& inner_deleter() {
    static c10::DeleterFnPtr deleter = nullptr;
    return deleter;
  }

  c10::Allocator* inner_;
};

}  // namespace roundtable::testing
