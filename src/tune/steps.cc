// Rows are sent to the device once; reports come back through two slots that take turns.
#include "tune/steps.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

namespace roundtable {

StepRows::StepRows(const Sampler& sampler, std::int64_t iters, const SampleRange& range, const torch::Device& device)
    : batch_(sampler.batch()) {
  std::vector<std::int64_t> all;
  for (std::int64_t i = 0; i < iters; ++i) {
    starts_.push_back(static_cast<std::int64_t>(all.size()));
    for (const std::int64_t sample : sampler.step(i)) {
      if (range.contains(sample)) all.push_back(sample - range.begin);
    }
  }
  starts_.push_back(static_cast<std::int64_t>(all.size()));
  rows_ = torch::tensor(all, torch::kInt64).to(device);
}

StepReports::StepReports(const torch::Device& device, bool late) : device_(device), late_(late) {
  // Only into pinned memory does a copy from a device run while the device works on something else.
  const auto options = torch::TensorOptions(torch::kFloat32).pinned_memory(device.is_cuda());
  for (Slot& slot : slots_) {
    slot.numbers = torch::zeros({2}, options);
    if (device.is_cuda()) slot.copied.emplace(device.type());
  }
}

std::optional<StepReport> StepReports::put(std::int64_t iteration, const torch::Tensor& tail, torch::Tensor own_part) {
  Slot& slot = slots_[next_];
  next_ = 1 - next_;
  slot.numbers.copy_(tail, /*non_blocking=*/true);
  if (slot.copied) slot.copied->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  slot.own_part = std::move(own_part);
  slot.iteration = iteration;
  return take(late_ ? slots_[next_] : slot);
}

std::optional<StepReport> StepReports::last() { return take(slots_[1 - next_]); }

std::optional<StepReport> StepReports::take(Slot& slot) {
  if (slot.iteration < 0) return std::nullopt;
  if (slot.copied) slot.copied->synchronize();
  const auto* numbers = slot.numbers.const_data_ptr<float>();
  return StepReport{std::exchange(slot.iteration, -1), numbers[0] > 0, numbers[1], std::move(slot.own_part)};
}

}  // namespace roundtable
