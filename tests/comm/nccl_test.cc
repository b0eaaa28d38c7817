// NCCL over the ranks of a node, one GPU each.
#include "comm/nccl/nccl.h"

#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "device/device.h"
#include "model/load/tensor_span.h"
#include "tests/comm/sum_check.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

using testing::world;

class Nccl : public ::testing::Test {
 protected:
  void SetUp() override {
    const int ranks = world().size();
    const int devices = torch::cuda::is_available() ? static_cast<int>(torch::cuda::device_count()) : 0;
    if (devices < ranks) GTEST_SKIP() << "NCCL needs one GPU per rank: " << ranks << " ranks, " << devices << " GPUs";
    device_ = *cuda_device_of(world().rank());
    nccl_ = make_nccl_communicator(world(), current_stream(device_));
  }

  // Of each rank its number, from 1.
  torch::Tensor own(std::int64_t count) const {
    return torch::full({count}, static_cast<float>(world().rank() + 1), device_);
  }
  static torch::Tensor sum(std::int64_t count) {
    const int n = world().size();
    return torch::full({count}, static_cast<float>(n * (n + 1) / 2));
  }

  torch::Device device_ = torch::kCPU;
  std::unique_ptr<DeviceCommunicator> nccl_;
};

// At two ranks and more a communicator that does nothing fails here: Communicator.ThatAddsNothingIsFound.
TEST_F(Nccl, SumsOnTheDevice) {
  EXPECT_TRUE(testing::adds_over_ranks(world().rank(), world().size(), [&](std::vector<float>& data) {
    torch::Tensor host = torch::from_blob(data.data(), {std::ssize(data)});
    const torch::Tensor there = host.to(device_);
    nccl_->all_reduce_sum(device_span(there));
    host.copy_(there);
  }));
}

// What is started waits for the kernels before it, and what is waited for goes before the kernels after it.
TEST_F(Nccl, SumsBesideOtherWork) {
  torch::Tensor first = own(1 << 22), second = own(1 << 22);
  first.mul_(2);
  const auto sum_of_first = nccl_->start_all_reduce_sum(device_span(first));
  second.mul_(3);
  const auto sum_of_second = nccl_->start_all_reduce_sum(device_span(second));
  sum_of_first->wait();
  first.add_(1);
  sum_of_second->wait();
  second.add_(1);
  EXPECT_TRUE(torch::equal(first.cpu(), sum(1 << 22) * 2 + 1));
  EXPECT_TRUE(torch::equal(second.cpu(), sum(1 << 22) * 3 + 1));
}

TEST_F(Nccl, ExchangesBetweenTwo) {
  const int peer = world().size() == 1 ? 0 : world().rank() ^ 1;
  const torch::Tensor mine = own(1 << 20);
  torch::Tensor theirs = torch::zeros_like(mine);
  nccl_->exchange(device_span(mine), device_span(theirs), peer);
  theirs.add_(1);  // behind the exchange
  EXPECT_TRUE((theirs == static_cast<float>(peer + 2)).all().item<bool>());
}

TEST_F(Nccl, SendsAllToAllInPartsOfAnySize) {
  const int n = world().size(), mine = world().rank();
  std::vector<std::int64_t> send, receive;
  std::vector<torch::Tensor> data, wanted;
  for (int peer = 0; peer < n; ++peer) {
    send.push_back(1000 * (mine + peer));  // the first rank keeps nothing
    receive.push_back(1000 * (peer + mine));
    data.push_back(torch::full({send.back()}, 100.0 * mine + peer));
    wanted.push_back(torch::full({receive.back()}, 100.0 * peer + mine + 1));
  }
  const torch::Tensor leaving = torch::cat(data).to(device_);
  torch::Tensor theirs = torch::zeros(torch::cat(wanted).sizes(), device_);
  nccl_->all_to_all(device_span(leaving), send, device_span(theirs), receive);
  theirs.add_(1);  // behind it
  EXPECT_TRUE(torch::equal(theirs.cpu(), torch::cat(wanted)));
}

}  // namespace
}  // namespace roundtable
