// The choice of a communicator by a tensor's device.
#include "model/group/tensor_group.h"

#include <c10/util/accumulate.h>

#include <algorithm>

#include "base/error.h"
#include "model/load/tensor_span.h"

namespace roundtable {

std::unique_ptr<PendingSum> TensorGroup::start_sum(const torch::Tensor& data) const {
  if (data.is_cpu()) return host_->start_all_reduce_sum(host_span(data));
  return device().start_all_reduce_sum(device_span(data));
}

void TensorGroup::exchange(const torch::Tensor& mine, const torch::Tensor& theirs, int peer) const {
  if (mine.is_cpu()) {
    host_->exchange(host_span(mine), host_span(theirs), peer);
  } else {
    device().exchange(device_span(mine), device_span(theirs), peer);
  }
}

void TensorGroup::all_to_all(const torch::Tensor& mine, const std::vector<std::int64_t>& send,
                             const torch::Tensor& theirs, const std::vector<std::int64_t>& receive) const {
  const auto elements = [row = c10::multiply_integers(mine.sizes().slice(1))](std::vector<std::int64_t> rows) {
    for (std::int64_t& count : rows) count *= row;
    return rows;
  };
  if (mine.is_cpu()) {
    host_->all_to_all(host_span(mine), elements(send), host_span(theirs), elements(receive));
  } else {
    device().all_to_all(device_span(mine), elements(send), device_span(theirs), elements(receive));
  }
}

std::vector<std::vector<std::int64_t>> TensorGroup::all_gather(const std::vector<std::int64_t>& mine) const {
  // A sum of lists that are zero but for one's own part: a communicator gathers only what has a fixed size.
  const std::size_t length = mine.size();
  std::vector<std::int64_t> all(length * static_cast<std::size_t>(size()));
  std::copy(mine.begin(), mine.end(), all.begin() + static_cast<std::ptrdiff_t>(length) * rank());
  host_->all_reduce_sum(host_span(all));
  std::vector<std::vector<std::int64_t>> lists;
  for (auto at = all.begin(); at != all.end(); at += static_cast<std::ptrdiff_t>(length)) {
    lists.emplace_back(at, at + static_cast<std::ptrdiff_t>(length));
  }
  return lists;
}

DeviceCommunicator& TensorGroup::device() const {
  RT_CHECK(device_ != nullptr);
  return *device_;
}

}  // namespace roundtable
