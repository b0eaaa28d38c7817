// The choice of a communicator by a tensor's device.
#include "tune/gradients/gradient_group.h"

#include "base/error.h"
#include "model/load/tensor_span.h"

namespace roundtable {

std::unique_ptr<PendingSum> GradientGroup::start_sum(const torch::Tensor& data) const {
  if (data.is_cpu()) return host_->start_all_reduce_sum(host_span(data));
  return device().start_all_reduce_sum(device_span(data));
}

void GradientGroup::exchange(const torch::Tensor& mine, const torch::Tensor& theirs, int peer) const {
  if (mine.is_cpu()) {
    host_->exchange(host_span(mine), host_span(theirs), peer);
  } else {
    device().exchange(device_span(mine), device_span(theirs), peer);
  }
}

DeviceCommunicator& GradientGroup::device() const {
  RT_CHECK(device_ != nullptr);
  return *device_;
}

}  // namespace roundtable
