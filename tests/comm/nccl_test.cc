// NCCL over the ranks of a node, a GPU each.
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "comm/nccl/nccl.h"
#include "device/stream.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

class Nccl : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device on this machine";
    if (static_cast<int>(torch::cuda::device_count()) < testing::world().size()) GTEST_SKIP() << "fewer devices than ranks";
    const int rank = testing::world().rank();
    nccl_ = make_nccl_communicator(testing::world(), rank, current_device_stream(rank));
  }

  // Of each rank its number, from 1.
  torch::Tensor own(std::int64_t count) const {
    const torch::Device device(torch::kCUDA, static_cast<c10::DeviceIndex>(testing::world().rank()));
    return torch::full({count}, static_cast<float>(testing::world().rank() + 1), device);
  }
  static torch::Tensor sum(std::int64_t count) {
    const int n = testing::world().size();
    return torch::full({count}, static_cast<float>(n * (n + 1) / 2));
  }

  std::unique_ptr<Communicator> nccl_;
};

TEST_F(Nccl, SumsOnTheDevice) {
  torch::Tensor data = own(1000);
  nccl_->all_reduce_sum(data.data_ptr(), data.numel(), ElementType::kF32);
  EXPECT_TRUE(torch::equal(data.cpu(), sum(1000)));
  nccl_->barrier();
}

// What is started waits for the kernels before it, and what is waited for goes before the kernels after it.
TEST_F(Nccl, SumsBesideOtherWork) {
  torch::Tensor first = own(1 << 22), second = own(1 << 22);
  first.mul_(2);
  const auto sum_of_first = nccl_->start_all_reduce_sum(first.data_ptr(), first.numel(), ElementType::kF32);
  second.mul_(3);
  const auto sum_of_second = nccl_->start_all_reduce_sum(second.data_ptr(), second.numel(), ElementType::kF32);
  sum_of_first->wait();
  first.add_(1);
  sum_of_second->wait();
  second.add_(1);
  EXPECT_TRUE(torch::equal(first.cpu(), sum(1 << 22) * 2 + 1));
  EXPECT_TRUE(torch::equal(second.cpu(), sum(1 << 22) * 3 + 1));
}

}  // namespace
}  // namespace roundtable
