// That the stand-in finds what it is there for: each case is a mistake that a program can make, and the same without it.
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <gtest/gtest.h>
#include <nccl.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <functional>
#include <thread>

#include "quant/fake_quant.h"
#include "quant/fake_quant_kernels.h"
#include "tests/standin/device/settings.h"

namespace roundtable::standin {
namespace {

torch::Tensor ones(int device = 0) {
  return torch::ones({1000}, torch::Device(torch::kCUDA, static_cast<torch::DeviceIndex>(device)));
}

// A sum over one rank on a stream of its own, as the program's communicator starts it.
class Sum {
 public:
  Sum() {
    cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&produced_, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&done_, cudaEventDisableTiming);
    ncclUniqueId id;
    ncclGetUniqueId(&id);
    ncclCommInitRank(&comm_, 1, id, 0);
  }
  ~Sum() { ncclCommDestroy(comm_); }

  void wait_for_kernels() {
    cudaEventRecord(produced_, nullptr);
    cudaStreamWaitEvent(stream_, produced_, 0);
  }
  void start(const torch::Tensor& data) {
    ncclAllReduce(data.data_ptr(), data.data_ptr(), static_cast<std::size_t>(data.numel()), ncclFloat32, ncclSum, comm_,
                  stream_);
    cudaEventRecord(done_, stream_);
  }
  void hold_back_kernels() { cudaStreamWaitEvent(nullptr, done_, 0); }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t produced_ = nullptr, done_ = nullptr;
  ncclComm_t comm_ = nullptr;
};

TEST(StandIn, HostCodeMayNotTouchDeviceMemory) {
  const torch::Tensor there = ones();
  EXPECT_EQ(there.sum().item<float>(), 1000);
  EXPECT_DEATH(std::printf("%f", *there.const_data_ptr<float>()), "host code touched memory of device 0");
  EXPECT_DEATH(*there.data_ptr<float>() = 1, "host code touched memory of device 0");
}

TEST(StandIn, NewMemoryHoldsNoNumbers) {
  const auto options = torch::TensorOptions(torch::kCUDA);
  EXPECT_TRUE(torch::empty({7}, options).isnan().all().item<bool>());
  EXPECT_TRUE(torch::empty({7}, options).isnan().all().item<bool>());  // what LibTorch's allocator had kept
}

TEST(StandIn, ASumWaitsForTheKernelsOfItsInput) {
  Sum sum;
  const torch::Tensor data = ones();
  data.mul_(2);
  EXPECT_DEATH(sum.start(data), "ncclAllReduce reads memory that aten::mul.* writes on another stream");
  sum.wait_for_kernels();
  sum.start(data);
  sum.hold_back_kernels();
  EXPECT_EQ(data.sum().item<float>(), 2000);
}

TEST(StandIn, KernelsWaitForTheSum) {
  Sum sum;
  const torch::Tensor data = ones();
  sum.wait_for_kernels();
  sum.start(data);
  EXPECT_DEATH(data.add_(1), "aten::add.* memory that ncclAllReduce writes on another stream");
  EXPECT_DEATH(data.add(1), "reads memory that ncclAllReduce writes");
  const torch::Tensor other = ones().add_(1);  // of memory that the sum does not use
  sum.hold_back_kernels();
  EXPECT_EQ((data + other).sum().item<float>(), 3000);
}

TEST(StandIn, ASecondStreamWaitsForTheFirst) {
  const torch::Tensor from = ones();
  cudaStream_t second = nullptr;
  cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
  EXPECT_DEATH(cudaMemsetAsync(from.data_ptr(), 0, 4, second), "cudaMemsetAsync writes memory that .* another stream");
}

TEST(StandIn, EventsAreRecordedAndBelongToADevice) {
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  EXPECT_DEATH(cudaStreamWaitEvent(nullptr, event, 0), "never recorded");
  const c10::cuda::CUDAStream here = c10::cuda::getCurrentCUDAStream();
  EXPECT_EQ(cudaEventRecord(event, here.stream()), cudaSuccess);
  cudaSetDevice(1);
  EXPECT_DEATH(cudaEventRecord(event, nullptr), "an event of one device is recorded in a stream of another");
  cudaSetDevice(0);
}

TEST(StandIn, KernelsRunOnTheDeviceOfTheirThread) {
  const auto options = torch::TensorOptions(torch::Device(torch::kCUDA, 1));
  const torch::Tensor weight = torch::ones({4, 64}, options);
  const QuantScheme scheme;
  const RoundingParameters parameters = make_rounding_parameters(weight, scheme);
  torch::Tensor result = torch::empty_like(weight);
  const WeightArrays arrays{weight.const_data_ptr(), false, 4, 64, scheme.groups(64), parameters.v.data_ptr<float>(),
                            parameters.min_scale.data_ptr<float>(), parameters.max_scale.data_ptr<float>(),
                            parameters.wmin.data_ptr<float>(), parameters.wmax.data_ptr<float>()};
  const auto on_new_thread = [](const std::function<void()>& work) { std::thread(work).join(); };
  EXPECT_DEATH(on_new_thread([&] { cuda::fake_quantize(arrays, scheme, result.data_ptr(), false); }),
               "fake_quantize is launched on device 0 with memory of device 1");
  on_new_thread([&] { fake_quantize(weight, parameters, scheme, result); });  // which sets the weight's device
  EXPECT_FALSE(result.isnan().any().item<bool>());
}

TEST(StandIn, TheKernelsOfOneDeviceDoNotTakeTensorsOfAnother) {
  const auto matrix = [](int device) { return ones(device).view({10, 100}); };
  EXPECT_DEATH(torch::mm(matrix(0), matrix(1).t()), "aten::mm.* is given tensors of two devices");
  EXPECT_ANY_THROW(torch::mm(matrix(0), torch::ones({100, 10})));
}

TEST(StandIn, ACopyThatTheHostDoesNotWaitForIsThereAfterASynchronization) {
  const torch::Tensor there = ones();
  const torch::Tensor here = torch::zeros({1000}, torch::TensorOptions().pinned_memory(true));
  here.copy_(there, /*non_blocking=*/true);
  if (settings().late) {
    EXPECT_TRUE(std::isnan(here.const_data_ptr<float>()[0]));
  }
  there.zero_();
  cudaStreamSynchronize(nullptr);
  EXPECT_EQ(here.sum().item<float>(), 1000);
}

TEST(StandIn, MemoryIsLibTorchsOwnAllocators) {
  const auto peak = [] {
    return c10::cuda::CUDACachingAllocator::getDeviceStats(0).allocated_bytes[0].peak;
  };
  const auto before = peak();
  { const torch::Tensor large = torch::empty({64 << 20}, torch::TensorOptions(torch::kCUDA).dtype(torch::kByte)); }
  EXPECT_GE(peak(), std::max<std::int64_t>(before, 64 << 20));
  EXPECT_THROW(torch::empty({std::int64_t{1} << 33}, torch::TensorOptions(torch::kCUDA)), c10::OutOfMemoryError);
  EXPECT_EQ(ones().sum().item<float>(), 1000);
}

}  // namespace
}  // namespace roundtable::standin
