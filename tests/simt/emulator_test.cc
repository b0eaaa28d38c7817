// The emulator itself: small kernels that keep CUDA's rules, and one for each rule that a kernel can break.
#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t kAll = 0xffffffffu;

// Runs body(number of the thread in its block) in `blocks` blocks of `threads`. Returns what is wrong, or nothing.
std::string run(unsigned blocks, unsigned threads, const std::function<void(unsigned)>& body) {
  try {
    simt::launch({blocks, 1, 1}, {threads, 1, 1}, [&] { body(threadIdx.x); });
  } catch (const simt::Fault& fault) {
    return fault.what();
  }
  return "";
}

TEST(Emulator, RunsEveryThreadOfEveryBlock) {
  std::vector<int> times(3 * 70);
  EXPECT_EQ(run(3, 70, [&](unsigned i) { ++times[blockIdx.x * blockDim.x + i]; }), "");
  EXPECT_EQ(times, std::vector<int>(3 * 70, 1));
}

__global__ void add_kernel(float* sums, int count) {
  ++count;  // each thread has parameters of its own
  sums[threadIdx.x] += static_cast<float>(count);
}

TEST(Emulator, GivesEveryThreadItsOwnParameters) {
  std::vector<float> sums(40);
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(40);
  cudaLaunchKernelEx(&config, add_kernel, sums.data(), 1);
  EXPECT_EQ(sums, std::vector<float>(40, 2.0f));
}

TEST(Emulator, ShufflesExchangeTheValuesOfAWarp) {
  std::vector<float> sums(64);
  const auto sum = [&](unsigned i) {
    float x = static_cast<float>(i);
    for (unsigned step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
    sums[i] = x;
  };
  EXPECT_EQ(run(1, 64, sum), "");
  EXPECT_EQ(sums[5], 31 * 32 / 2);
  EXPECT_EQ(sums[40], 31 * 32 / 2 + 32 * 32);
}

TEST(Emulator, HalvesOfAWarpExchangeWithoutTheOther) {
  std::vector<int> got(32);
  const auto swap = [&](unsigned i) {
    if (i < 16) {
      got[i] = __shfl_xor_sync(0x0000ffffu, static_cast<int>(i), 1);
    } else {
      got[i] = __any_sync(0xffff0000u, i == 20);
    }
  };
  EXPECT_EQ(run(1, 32, swap), "");
  EXPECT_EQ(got[6], 7);
  EXPECT_EQ(got[16], 1);
}

TEST(Emulator, VotesSeeEveryLane) {
  std::vector<int> got(64);
  EXPECT_EQ(run(1, 64, [&](unsigned i) { got[i] = __any_sync(kAll, i == 40); }), "");
  EXPECT_EQ(std::accumulate(got.begin(), got.end(), 0), 32);
}

// The number of the thread opposite, by way of shared memory.
void mirror(unsigned i, std::vector<unsigned>& out, bool waits) {
  __shared__ unsigned numbers[100];
  numbers[i] = i;
  if (waits) __syncthreads();
  out[i] = numbers[99 - i];
}

TEST(Emulator, BarriersMakeSharedMemoryVisible) {
  std::vector<unsigned> out(100);
  EXPECT_EQ(run(2, 100, [&](unsigned i) { mirror(i, out, true); }), "");
  for (unsigned i = 0; i < 100; ++i) ASSERT_EQ(out[i], 99 - i);
}

TEST(Emulator, WithoutABarrierSharedMemoryHoldsNothing) {
  std::vector<unsigned> out(100);
  EXPECT_EQ(run(1, 100, [&](unsigned i) { mirror(i, out, false); }), "");
  EXPECT_THAT(out, ::testing::Contains(~0u));
}

TEST(Emulator, SharedMemoryHoldsNoNumbersAtFirst) {
  std::vector<float> found(2);
  for (int times = 0; times < 2; ++times) {
    const auto read = [&](unsigned) {
      __shared__ float sum;
      found[blockIdx.x] = sum;
      sum = 0;
    };
    EXPECT_EQ(run(2, 1, read), "");
    EXPECT_TRUE(std::isnan(found[0]) && std::isnan(found[1]));
  }
}

TEST(Emulator, OrderOfThreadsAlternates) {
  std::vector<unsigned> last(2);
  for (unsigned& one : last) EXPECT_EQ(run(1, 64, [&](unsigned i) { one = i; }), "");
  EXPECT_EQ(last[0] + last[1], 63u);
}

TEST(EmulatorFinds, AShuffleAfterAReturn) {
  const auto body = [](unsigned i) {
    if (i == 3) return;
    __shfl_xor_sync(kAll, i, 1);
  };
  EXPECT_THAT(run(1, 32, body), HasSubstr("a lane that the mask names has returned"));
}

TEST(EmulatorFinds, AMaskWithoutTheLaneItself) {
  EXPECT_THAT(run(1, 32, [](unsigned) { __any_sync(0xffu, 1); }), HasSubstr("does not name the lane itself"));
}

TEST(EmulatorFinds, AShuffleFromALaneOutsideTheMask) {
  const auto body = [](unsigned i) {
    if (i < 16) __shfl_xor_sync(0xffffu, i, 16);
  };
  EXPECT_THAT(run(1, 32, body), HasSubstr("reads a lane that its mask does not name"));
}

TEST(EmulatorFinds, AMaskBeyondTheBlock) {
  EXPECT_THAT(run(1, 20, [](unsigned i) { __shfl_xor_sync(kAll, i, 1); }), HasSubstr("a lane beyond the block"));
}

TEST(EmulatorFinds, LanesAtTwoShuffles) {
  const auto body = [](unsigned i) {
    if (i < 16) {
      __shfl_xor_sync(kAll, i, 1);
    } else {
      __shfl_xor_sync(kAll, i, 1);
    }
  };
  EXPECT_THAT(run(1, 32, body), HasSubstr("waits elsewhere"));
}

TEST(EmulatorFinds, LanesWithTwoMasks) {
  const auto body = [](unsigned i) { __any_sync(i == 0 ? kAll : 0xfffffffeu, 1); };
  EXPECT_THAT(run(1, 32, body), HasSubstr("has another mask"));
}

TEST(EmulatorFinds, ABarrierAfterAReturn) {
  for (const unsigned early : {0u, 69u}) {
    const auto body = [&](unsigned i) {
      if (i != early) __syncthreads();
    };
    EXPECT_THAT(run(1, 70, body), HasSubstr("where a thread of the block has returned"));
  }
}

TEST(EmulatorFinds, ABarrierInABranch) {
  const auto body = [](unsigned i) {
    if (i < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  };
  EXPECT_THAT(run(1, 64, body), HasSubstr("while another thread waits at emulator_test.cc"));
}

TEST(EmulatorFinds, AShuffleThatWaitsForABarrier) {
  const auto body = [](unsigned i) {
    if (i == 0) __syncthreads();
    __shfl_xor_sync(kAll, i, 1);
  };
  EXPECT_THAT(run(1, 32, body), HasSubstr("waits at a barrier"));
}

TEST(EmulatorFinds, LaunchesThatAGpuRefuses) {
  const auto nothing = [](unsigned) {};
  EXPECT_THAT(run(0, 32, nothing), HasSubstr("no blocks"));
  EXPECT_THAT(run(1, 1025, nothing), HasSubstr("1025 threads"));
}

TEST(EmulatorFinds, NothingWrongAfterAFault) {
  EXPECT_NE(run(1, 32, [](unsigned i) { __any_sync(1u << i << 1, 1); }), "");
  EXPECT_EQ(run(1, 32, [](unsigned) { __any_sync(kAll, 1); }), "");
}

}  // namespace
