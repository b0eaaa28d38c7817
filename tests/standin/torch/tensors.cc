// The operators that make, copy and view tensors of the CUDA key. LibTorch's own allocator for CUDA gives them memory.
#include "tests/standin/torch/tensors.h"

#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>

#include "tests/standin/device/checks.h"
#include "tests/standin/device/memory.h"
#include "tests/standin/device/settings.h"
#include "tests/standin/runtime/state.h"

namespace roundtable::standin {
namespace {

using OptionalType = std::optional<at::ScalarType>;
using OptionalLayout = std::optional<at::Layout>;
using OptionalDevice = std::optional<at::Device>;

c10::cuda::CUDACachingAllocator::CUDAAllocator* allocator() {
  at::globalContext().lazyInitDevice(c10::kCUDA);
  return c10::cuda::CUDACachingAllocator::get();
}

c10::Device named_or_current(const OptionalDevice& device) {
  if (device && device->has_index()) return *device;
  return {c10::kCUDA, c10::cuda::current_device()};
}

// The one that the settings name asks for more than any device has: LibTorch's own error follows.
void count_tensor() {
  static std::atomic<std::int64_t> made{0};
  if (++made == settings().full.count) allocator()->allocate(std::size_t{1} << 50);
}

// What a tensor holds before something is written to it must not matter.
at::Tensor filled(at::Tensor tensor) {
  if (tensor.storage().nbytes() == 0) return tensor;
  const void* begin = tensor.storage().data();
  start_operator(tensor.device(), {{begin, tensor.storage().nbytes(), true}}, "a new tensor");
  std::memset(opened(begin), 0xff, tensor.storage().nbytes());
  return tensor;
}

at::Tensor empty(at::IntArrayRef size, OptionalType dtype, OptionalLayout, OptionalDevice device, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(named_or_current(device));
  count_tensor();
  return filled(at::detail::empty_generic(size, allocator(), c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                          c10::dtype_or_default(dtype), format));
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, OptionalType dtype, OptionalLayout,
                         OptionalDevice device, std::optional<bool>) {
  const c10::DeviceGuard guard(named_or_current(device));
  count_tensor();
  return filled(at::detail::empty_strided_generic(size, stride, allocator(),
                                                  c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                                  c10::dtype_or_default(dtype)));
}

void host_waits(c10::Device device) {
  Lock lock = lock_streams();
  Stream& stream = stream_of(lock, c10::cuda::getCurrentCUDAStream(device.index()).stream());
  wait_for(lock, stream, stream.started);
}

// To pinned memory the host need not wait: until it does, the memory holds NaNs in the mode `late`.
void copy_without_waiting(const at::Tensor& to, const at::Tensor& from) {
  const at::Tensor content = at::empty_like(to, to.options().pinned_memory(false));
  content.copy_(as_host(from));
  if (settings().late) std::memset(to.data_ptr(), 0xff, to.nbytes());
  std::vector<Access> accesses;
  add_access(accesses, from, false);
  Lock lock = lock_streams();
  Stream& stream = stream_of(lock, c10::cuda::getCurrentCUDAStream(from.device().index()).stream());
  start_delivery(lock, stream, accesses, "a copy to the host", to.data_ptr(), [place = to.data_ptr(), content] {
    std::memcpy(place, content.data_ptr(), content.nbytes());
  });
}

at::Tensor& copy(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  const c10::Device device = self.is_cuda() ? self.device() : source.device();
  const c10::DeviceGuard guard(device);
  if (self.is_cuda() && !source.is_cuda()) ++counts().to_device;
  if (!self.is_cuda() && source.is_cuda()) ++counts().from_device;
  std::vector<Access> accesses;
  add_access(accesses, source, false);
  add_access(accesses, self, true);
  start_operator(device, accesses, "aten::copy_");
  if (!self.is_cuda() && non_blocking && self.is_pinned() && self.is_non_overlapping_and_dense() &&
      self.sizes() == source.sizes()) {
    copy_without_waiting(self, source);
    return self;
  }
  as_host(self).copy_(as_host(source));
  if (!self.is_cuda() || !source.is_cuda()) host_waits(device);
  return self;
}

const at::Tensor& resize(const at::Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
  const auto bytes =
      static_cast<std::size_t>((c10::multiply_integers(size) + self.storage_offset()) * self.element_size());
  c10::StorageImpl* storage = self.storage().unsafeGetStorageImpl();
  if (bytes > storage->nbytes()) {
    const c10::DeviceGuard guard(self.device());
    c10::DataPtr larger = allocator()->allocate(bytes);
    start_operator(self.device(), {{storage->data(), storage->nbytes(), false}, {larger.get(), bytes, true}},
                   "aten::resize_");
    std::memcpy(opened(larger.get()), opened(storage->data()), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(larger));
    storage->set_nbytes(bytes);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return self;
}

at::Tensor view(const at::Tensor& self, at::IntArrayRef size) { return at::native::view(self, size); }

at::Tensor as_strided(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride,
                      std::optional<std::int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

at::Tensor reshape_alias(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride) {
  return at::native::_reshape_alias(self, size, stride);
}

at::Tensor unfold(const at::Tensor& self, std::int64_t dimension, std::int64_t size, std::int64_t step) {
  return at::native::unfold(self, dimension, size, step);
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", TORCH_FN(empty));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("copy_", TORCH_FN(copy));
  m.impl("resize_", TORCH_FN(resize));
  m.impl("view", TORCH_FN(view));
  m.impl("as_strided", TORCH_FN(as_strided));
  m.impl("_reshape_alias", TORCH_FN(reshape_alias));
  m.impl("unfold", TORCH_FN(unfold));
}

}  // namespace

at::Tensor as_host(const at::Tensor& tensor) {
  if (!tensor.is_cuda()) return tensor;
  void* data = tensor.storage().nbytes() > 0 ? opened(tensor.data_ptr()) : nullptr;
  return at::from_blob(data, tensor.sizes(), tensor.strides(), [](void*) {},
                       tensor.options().device(at::kCPU).requires_grad(false));
}

at::Tensor to_device(const at::Tensor& tensor, c10::Device device, const std::string& what) {
  const c10::DeviceGuard guard(device);
  const at::Tensor out = at::empty_strided(tensor.sizes(), tensor.strides(),
                                           tensor.options().device(device).pinned_memory(false).requires_grad(false));
  std::vector<Access> accesses;
  add_access(accesses, out, true);
  start_operator(device, accesses, what);
  if (tensor.numel() > 0) as_host(out).copy_(tensor);
  return out;
}

void add_access(std::vector<Access>& accesses, const at::Tensor& tensor, bool writes) {
  if (!tensor.defined() || !tensor.is_cuda() || tensor.numel() == 0) return;
  std::int64_t elements = 1;
  for (std::int64_t i = 0; i < tensor.dim(); ++i) elements += (tensor.size(i) - 1) * tensor.stride(i);
  accesses.push_back({tensor.data_ptr(), static_cast<std::size_t>(elements * tensor.element_size()), writes});
}

void start_operator(c10::Device device, const std::vector<Access>& accesses, const std::string& what) {
  const cudaStream_t handle = c10::cuda::getCurrentCUDAStream(device.index()).stream();
  {
    Lock lock = lock_streams();
    Stream& stream = handle == nullptr ? *default_stream(lock, device.index()) : stream_of(lock, handle);
    start_now(lock, stream, accesses, what);
  }
  ++counts().operators;
  count_work();
  C10_CUDA_CHECK(cudaPeekAtLastError());
}

}  // namespace roundtable::standin
