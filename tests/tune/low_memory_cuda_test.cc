// low_gpu_mem_usage: samples on the host, the block on the GPU, and the same losses as with all on the GPU.
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/tune/tuner_fixture.h"
#include "tune/block_tuner.h"

namespace roundtable {
namespace {

TEST(LowGpuMemUsage, SamplesMayStayOnTheHost) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device on this machine";
  const testing::TinyProblem problem;
  std::vector<torch::Tensor> original;
  for (const torch::Tensor& weight : problem.weights.weights) original.push_back(weight.cuda());
  std::vector<std::vector<float>> losses;
  for (const torch::Device device : {torch::Device(torch::kCPU), torch::Device(torch::kCUDA)}) {
    Block block = problem.block(torch::kCUDA);
    const torch::Tensor input = problem.input.to(device);
    const torch::Tensor target = testing::TinyProblem::run(block, input);
    EXPECT_EQ(target.device().type(), device.type());
    SelfCommunicator alone;
    const Sampler sampler(SamplerKind::kStrata, 8, 4, 42, 0);
    losses.push_back(BlockTuner({{&block}, original, problem.schemes}, {{input, {}}, target, {0, 8}}, sampler,
                                {.iters = 3}, alone)
                         .tune()
                         .losses);
  }
  EXPECT_EQ(losses[0], losses[1]);
}

}  // namespace
}  // namespace roundtable
