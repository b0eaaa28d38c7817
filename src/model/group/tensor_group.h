// The ranks that work on a block together, as tensors see them: over the host or over devices, by where a tensor is.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace roundtable {

// A handle on a group's communicators, which must outlive it; copies name the same group. The tensors below are
// contiguous. Where one is decides which communicator carries it, so that no caller can choose the wrong one: the
// host's calls block until the result is in the tensor; a device's calls only enqueue, and kernels that are launched
// later on LibTorch's stream see the result. A tensor on a device in a group of several ranks that has no communicator
// for devices is a bug of ours, and a fault.
class TensorGroup {
 public:
  // The group of blocks on the host. Implicit: such a group is its communicator, and nothing more.
  TensorGroup(HostCommunicator& host) : host_(&host) {}
  // The same ranks with their blocks on devices; null: on the host.
  TensorGroup(HostCommunicator& host, DeviceCommunicator* device) : host_(&host), device_(device) {}

  int rank() const { return host_->rank(); }
  int size() const { return host_->size(); }

  // Begins data[i] = sum over ranks of data[i], in place; see start_all_reduce_sum() of both communicators. Collective.
  std::unique_ptr<PendingSum> start_sum(const torch::Tensor& data) const;

  // The same, and waits as PendingSum::wait() does. Collective.
  void sum(const torch::Tensor& data) const { start_sum(data)->wait(); }

  // Sends `mine` to rank `peer` and receives `theirs` from it, of one shape and type and both in one memory. Collective
  // over the two ranks, which name each other.
  void exchange(const torch::Tensor& mine, const torch::Tensor& theirs, int peer) const;

  // Rows of `mine` [n, ...] to all ranks: rank r gets the next send[r] of them. Rows of all ranks, of the same shape and
  // type, to `theirs`: the next receive[r] are those of rank r. Collective.
  void all_to_all(const torch::Tensor& mine, const std::vector<std::int64_t>& send, const torch::Tensor& theirs,
                  const std::vector<std::int64_t>& receive) const;

  // The lists of all ranks in rank order, which are of one length. Host memory. Collective.
  std::vector<std::vector<std::int64_t>> all_gather(const std::vector<std::int64_t>& mine) const;

 private:
  DeviceCommunicator& device() const;

  HostCommunicator* host_;
  DeviceCommunicator* device_ = nullptr;
};

}  // namespace roundtable
