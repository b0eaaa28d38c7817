// Every other operator of the CUDA key: LibTorch's kernel for the CPU on the same memory.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/transformers/attention.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "tests/standin/device/checks.h"
#include "tests/standin/runtime/state.h"
#include "tests/standin/torch/tensors.h"

namespace roundtable::standin {
namespace {

using c10::IValue;

// One call of an operator.
class Call {
 public:
  Call(const c10::OperatorHandle& op, torch::jit::Stack* stack)
      : op_(op), schema_(op.schema()), stack_(*stack), begin_(stack->size() - schema_.arguments().size()) {
    name_ = schema_.operator_name().name;
    if (!schema_.overload_name().empty()) name_ += "." + schema_.overload_name();
    original_.resize(schema_.arguments().size());
    replaced_.resize(schema_.arguments().size());
  }

  void run() {
    for (std::size_t i = 0; i < original_.size(); ++i) take_argument(i);
    TORCH_CHECK(device_, "stand-in: no device in ", name_);
    TORCH_CHECK(!host_tensor_ || name_.find("index") != std::string::npos, "stand-in: ", name_,
                ": expected all tensors to be on the same device");
    const c10::DeviceGuard guard(*device_);
    start_operator(*device_, accesses_, name_);
    op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack_);
    for (std::size_t i = 0; i < original_.size(); ++i) give_size(i);
    for (std::size_t r = 0; r < schema_.returns().size(); ++r) return_value(r);
  }

 private:
  IValue& argument(std::size_t i) { return stack_[begin_ + i]; }

  bool is_written(std::size_t i) const {
    const auto* alias = schema_.arguments()[i].alias_info();
    return alias != nullptr && alias->isWrite();
  }

  at::Tensor on_host(const at::Tensor& tensor, bool written) {
    if (!tensor.defined()) return tensor;
    if (!tensor.is_cuda()) {
      host_tensor_ = host_tensor_ || tensor.dim() > 0;
      return tensor;
    }
    if (device_ && *device_ != tensor.device()) fault(name_ + " is given tensors of two devices");
    device_ = tensor.device();
    add_access(accesses_, tensor, written);
    return as_host(tensor);
  }

  void take_argument(std::size_t i) {
    IValue& value = argument(i);
    const bool written = is_written(i);
    if (value.isTensor()) {
      original_[i] = value.toTensor();
      replaced_[i] = on_host(original_[i], written);
      if (written && original_[i].defined() && original_[i].is_cuda() && original_[i].numel() == 0) {
        replaced_[i] = at::empty({0}, original_[i].options().device(at::kCPU));  // the operator gives it its size
      }
      value = replaced_[i];
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(on_host(tensor, written));
      value = std::move(list);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
        list.push_back(tensor ? std::optional(on_host(*tensor, written)) : std::nullopt);
      }
      value = std::move(list);
    } else if (value.isDevice()) {
      device_ = value.toDevice();
      if (!device_->has_index()) device_ = c10::Device(c10::kCUDA, c10::cuda::current_device());
      value = c10::Device(at::kCPU);
    }
  }

  // An output that the operator gave another size.
  void give_size(std::size_t i) {
    if (!is_written(i) || !original_[i].defined() || !original_[i].is_cuda()) return;
    if (replaced_[i].sizes() == original_[i].sizes()) return;
    original_[i].resize_(replaced_[i].sizes());
    as_host(original_[i]).copy_(replaced_[i]);
  }

  void return_value(std::size_t r) {
    IValue& value = stack_[stack_.size() - schema_.returns().size() + r];
    if (value.isTensor()) {
      value = on_device(value.toTensor(), r);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(on_device(tensor, r));
      value = std::move(list);
    } else {
      Lock lock = lock_streams();  // a number that the host reads
      Stream& stream = *default_stream(lock, device_->index());
      wait_for(lock, stream, stream.started);
    }
  }

  at::Tensor on_device(const at::Tensor& tensor, std::size_t r) const {
    if (!tensor.defined()) return tensor;
    if (const auto* alias = schema_.returns()[r].alias_info()) {
      for (std::size_t i = 0; i < original_.size(); ++i) {
        const auto* of_argument = schema_.arguments()[i].alias_info();
        if (of_argument != nullptr && *of_argument == *alias && original_[i].defined()) return original_[i];
      }
    }
    for (std::size_t i = 0; i < original_.size(); ++i) {  // a view
      if (!replaced_[i].defined() || !original_[i].is_cuda() || tensor.storage().nbytes() == 0) continue;
      if (tensor.storage().data() != replaced_[i].storage().data()) continue;
      return original_[i].as_strided(tensor.sizes(), tensor.strides(),
                                     original_[i].storage_offset() + tensor.storage_offset());
    }
    return to_device(tensor, *device_, name_);
  }

  const c10::OperatorHandle& op_;
  const c10::FunctionSchema& schema_;
  torch::jit::Stack& stack_;
  std::size_t begin_;
  std::string name_;
  std::optional<c10::Device> device_;
  bool host_tensor_ = false;  // of more than one number
  std::vector<at::Tensor> original_, replaced_;  // by argument
  std::vector<Access> accesses_;
};

void on_cpu(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) { Call(op, stack).run(); }

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>()); }

// Attention by the formula; the fused kernels are written for one kind of device each.
std::int64_t math_attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                            double, bool, std::optional<double>, bool) {
  return 0;  // at::SDPBackend::math
}
[[maybe_unused]] const bool attention_chosen = [] {
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&math_attention);
  return true;
}();

}  // namespace
}  // namespace roundtable::standin
