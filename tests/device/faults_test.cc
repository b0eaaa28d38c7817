// What LibTorch's exceptions about a device become.
#include "device/faults.h"

#include <ATen/Context.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <stdexcept>
#include <string>

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::optional<Error> error_of(const std::function<void()>& thrower) {
  try {
    thrower();
  } catch (...) {
    return error_of_device("rank 1, tune");
  }
  return std::nullopt;
}

TEST(DeviceFaults, NoMemoryIsTheMachinesAndNamesTheSettings) {
  const auto error = error_of([] { TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried 2 GiB.\nmore"); });
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code(), ExitCode::kMachine);
  EXPECT_THAT(error->what(), AllOf(HasSubstr("rank 1, tune: CUDA out of memory. Tried 2 GiB."), HasSubstr("tuning.micro_batch"),
                                   HasSubstr("parallel.shards"), HasSubstr("low_gpu_mem_usage"), Not(HasSubstr("more\n"))));
}

TEST(DeviceFaults, AFaultOfTheDeviceIsTheMachines) {
  const auto error = error_of([] {
    throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, 719, "CUDA error: unspecified launch failure\nhints");
  });
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code(), ExitCode::kMachine);
  EXPECT_THAT(error->what(), AllOf(HasSubstr("unspecified launch failure; look for"), HasSubstr("nvidia-smi")));
}

TEST(DeviceFaults, AnOperatorWithoutADeterministicWayNamesTheSetting) {
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  const auto error = error_of([] { at::globalContext().alertNotDeterministic("cumsum_cuda_kernel"); });
  at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/false);
  ASSERT_TRUE(error.has_value()) << "LibTorch's text has changed";
  EXPECT_EQ(error->code(), ExitCode::kBadInput);
  EXPECT_THAT(error->what(), AllOf(HasSubstr("cumsum_cuda_kernel"), HasSubstr("enable_deterministic_algorithms: false")));
}

TEST(DeviceFaults, AllElseIsSomebodyElses) {
  EXPECT_FALSE(error_of([] { TORCH_CHECK(false, "shapes differ"); }).has_value());
  EXPECT_FALSE(error_of([] { throw std::runtime_error("no"); }).has_value());
  EXPECT_FALSE(error_of([] { throw 1; }).has_value());
}

}  // namespace
}  // namespace roundtable
