// NCCL over the ranks of a node, a GPU each.
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "comm/nccl_communicator.h"
#include "pipeline/device_stream.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

TEST(Nccl, SumsOnTheDevice) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device on this machine";
  auto& world = testing::world();
  if (static_cast<int>(torch::cuda::device_count()) < world.size()) GTEST_SKIP() << "fewer devices than ranks";
  const torch::Device device(torch::kCUDA, static_cast<c10::DeviceIndex>(world.rank()));
  const auto nccl = make_nccl_communicator(world, world.rank(), current_device_stream(world.rank()));
  torch::Tensor data = torch::full({1000}, static_cast<float>(world.rank() + 1), device);
  nccl->all_reduce_sum(data.data_ptr(), data.numel(), ElementType::kF32);
  const float expected = static_cast<float>(world.size() * (world.size() + 1) / 2);
  EXPECT_TRUE(torch::equal(data.cpu(), torch::full({1000}, expected)));
  nccl->barrier();
}

}  // namespace
}  // namespace roundtable
