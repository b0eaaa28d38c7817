// Roundtable's own kernels for CUDA: those for the CPU on the same memory.
#include "quant/fake_quant_kernels.h"

#include <c10/core/Device.h>

#include "tests/standin/device/checks.h"
#include "tests/standin/device/memory.h"
#include "tests/standin/runtime/state.h"
#include "tests/standin/torch/tensors.h"

namespace roundtable::cuda {
namespace {

template <class T>
T* there(T* pointer) {
  return static_cast<T*>(standin::opened(pointer));
}

// A launch: what the kernel reads and writes, and where that is.
class Launch {
 public:
  Launch(const char* name, const WeightArrays& a)
      : name_(name), weights_(static_cast<std::size_t>(a.rows * a.columns)),
        groups_(static_cast<std::size_t>(a.rows * a.groups)), arrays_(a) {
    reads(a.weight, weights_ * (a.weight_is_bf16 ? 2 : 4));
    for (const float* array : {a.min_scale, a.max_scale, a.wmin, a.wmax}) reads(array, groups_ * sizeof(float));
    reads(a.v, weights_ * sizeof(float));
  }

  std::size_t weights() const { return weights_; }
  std::size_t groups() const { return groups_; }

  template <class T>
  Launch& reads(const T* array, std::size_t bytes) {
    return add(array, bytes, false);
  }
  template <class T>
  Launch& writes(const T* array, std::size_t bytes) {
    return add(array, bytes, true);
  }

  // The arrays, for a kernel of the CPU.
  WeightArrays start() const {
    ++standin::counts().kernels;
    standin::start_operator({c10::kCUDA, static_cast<c10::DeviceIndex>(standin::current_device())}, accesses_, name_);
    WeightArrays a = arrays_;
    a.weight = there(a.weight);
    for (float** array : {&a.v, &a.min_scale, &a.max_scale, &a.wmin, &a.wmax}) *array = there(*array);
    return a;
  }

 private:
  Launch& add(const void* array, std::size_t bytes, bool written) {
    if (array == nullptr) return *this;
    const int device = standin::device_of(array);
    if (device < 0) standin::fault(name_ + " is given memory of the host");
    if (device != standin::current_device()) {
      standin::fault(name_ + " is launched on device " + std::to_string(standin::current_device()) +
                     " with memory of device " + std::to_string(device));
    }
    accesses_.push_back({array, bytes, written});
    return *this;
  }

  std::string name_;
  std::size_t weights_, groups_;
  WeightArrays arrays_;
  std::vector<standin::Access> accesses_;
};

}  // namespace

void search_scales(const WeightArrays& arrays, const QuantScheme& scheme, const float* importance) {
  Launch launch("search_scales", arrays);
  launch.reads(importance, static_cast<std::size_t>(arrays.columns) * sizeof(float));
  for (float* array : {arrays.wmin, arrays.wmax}) launch.writes(array, launch.groups() * sizeof(float));
  cpu::search_scales(launch.start(), scheme, there(importance));
}

void fake_quantize(const WeightArrays& arrays, const QuantScheme& scheme, void* result, bool result_is_bf16) {
  Launch launch("fake_quantize", arrays);
  launch.writes(result, launch.weights() * (result_is_bf16 ? 2 : 4));
  cpu::fake_quantize(launch.start(), scheme, there(result), result_is_bf16);
}

void sign_step(const WeightArrays& arrays, const QuantScheme& scheme, const float* gradient, const StepSize& size) {
  Launch launch("sign_step", arrays);
  launch.reads(gradient, launch.weights() * sizeof(float)).writes(arrays.v, launch.weights() * sizeof(float));
  for (float* array : {arrays.min_scale, arrays.max_scale}) launch.writes(array, launch.groups() * sizeof(float));
  cpu::sign_step(launch.start(), scheme, there(gradient), size);
}

void rounding_gradients(const WeightArrays& arrays, const QuantScheme& scheme, const float* gradient,
                        const GradientArrays& out) {
  Launch launch("rounding_gradients", arrays);
  launch.reads(gradient, launch.weights() * sizeof(float)).writes(out.v, launch.weights() * sizeof(float));
  for (float* array : {out.min_scale, out.max_scale}) launch.writes(array, launch.groups() * sizeof(float));
  cpu::rounding_gradients(launch.start(), scheme, there(gradient),
                          {there(out.v), there(out.min_scale), there(out.max_scale)});
}

void quantize(const WeightArrays& arrays, const QuantScheme& scheme, const bool* wanted, const QuantizedArrays& out) {
  Launch launch("quantize", arrays);
  launch.reads(wanted, 1).writes(out.q, launch.weights());
  launch.writes(out.scale, launch.groups() * sizeof(float)).writes(out.zero_point, launch.groups());
  cpu::quantize(launch.start(), scheme, there(wanted), {there(out.q), there(out.scale), there(out.zero_point)});
}

}  // namespace roundtable::cuda
