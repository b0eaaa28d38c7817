// Which communicator of a group carries a tensor: that of the memory where the tensor is. No GPU is needed: the tensor
// on a device is one in name, and nobody looks into it.
#include "model/group/tensor_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <array>
#include <stdexcept>

#include "model/load/tensor_span.h"

namespace roundtable {
namespace {

using ::testing::ElementsAre;

struct Done final : PendingSum {
  bool poll() override { return true; }
  void wait() override {}
};

// Two ranks; each notes what it is asked for.
class Host final : public HostCommunicator {
 public:
  int rank() const override { return 1; }
  int size() const override { return 2; }
  std::unique_ptr<PendingSum> start_all_reduce_sum(HostSpan data) override {
    sums.push_back(data.data);
    return std::make_unique<Done>();
  }
  void broadcast(HostSpan, int) override {}
  void barrier() override {}
  void exchange(HostSpan mine, HostSpan theirs, int) override { exchanges = {mine.data, theirs.data}; }
  void all_to_all(HostSpan mine, const std::vector<std::int64_t>& send, HostSpan theirs,
                  const std::vector<std::int64_t>& receive) override {
    exchanges = {mine.data, theirs.data};
    sent = send;
    received = receive;
  }

  std::vector<void*> sums, exchanges;
  std::vector<std::int64_t> sent, received;

 protected:
  void gather_bytes(const void*, std::int64_t, void*) override {}
};

class Device final : public DeviceCommunicator {
 public:
  int rank() const override { return 1; }
  int size() const override { return 2; }
  std::unique_ptr<PendingSum> start_all_reduce_sum(DeviceSpan data) override {
    sums.push_back(data.data);
    return std::make_unique<Done>();
  }
  void exchange(DeviceSpan mine, DeviceSpan theirs, int) override { exchanges = {mine.data, theirs.data}; }
  void all_to_all(DeviceSpan mine, const std::vector<std::int64_t>&, DeviceSpan theirs,
                  const std::vector<std::int64_t>&) override {
    exchanges = {mine.data, theirs.data};
  }

  std::vector<void*> sums, exchanges;
};

class Groups : public ::testing::Test {
 protected:
  static torch::Tensor on_device(std::array<float, 4>& at) {
    const torch::Device device(torch::kCUDA, 0);
    return torch::for_blob(at.data(), {4})
        .target_device(device)
        .options(torch::TensorOptions(torch::kFloat32).device(device))
        .make_tensor();
  }

  Host host_;
  Device device_;
  std::array<float, 4> there_{}, there_too_{};
  const torch::Tensor on_host_ = torch::zeros({4}), on_host_too_ = torch::zeros({4});
  const torch::Tensor on_device_ = on_device(there_), on_device_too_ = on_device(there_too_);
};

TEST_F(Groups, ATensorGoesByItsMemory) {
  const TensorGroup group(host_, &device_);
  EXPECT_EQ(group.rank(), 1);
  EXPECT_EQ(group.size(), 2);
  group.sum(on_host_);
  group.sum(on_device_);
  group.exchange(on_host_, on_host_too_, 0);
  group.exchange(on_device_, on_device_too_, 0);
  EXPECT_THAT(host_.sums, ElementsAre(on_host_.data_ptr()));
  EXPECT_THAT(host_.exchanges, ElementsAre(on_host_.data_ptr(), on_host_too_.data_ptr()));
  EXPECT_THAT(device_.sums, ElementsAre(there_.data()));
  EXPECT_THAT(device_.exchanges, ElementsAre(there_.data(), there_too_.data()));
}

TEST_F(Groups, RowsGoToAllRanks) {
  const TensorGroup group(host_, &device_);
  const torch::Tensor mine = torch::zeros({3, 5}), theirs = torch::zeros({4, 5});
  group.all_to_all(mine, {1, 2}, theirs, {4, 0});
  EXPECT_THAT(host_.exchanges, ElementsAre(mine.data_ptr(), theirs.data_ptr()));
  EXPECT_THAT(host_.sent, ElementsAre(5, 10));
  EXPECT_THAT(host_.received, ElementsAre(20, 0));
  group.all_to_all(on_device_, {4, 0}, on_device_too_, {1, 3});
  EXPECT_THAT(device_.exchanges, ElementsAre(there_.data(), there_too_.data()));
  EXPECT_EQ(group.all_gather({7, 8}).at(1), (std::vector<std::int64_t>{7, 8}));
}

TEST_F(Groups, AGroupOfTheHostTakesNoTensorOnADevice) {
  const TensorGroup group(host_);
  EXPECT_THROW(group.sum(on_device_), std::logic_error);
  EXPECT_THROW(group.exchange(on_device_, on_device_too_, 0), std::logic_error);
  EXPECT_THROW(group.exchange(on_host_, on_device_, 0), std::logic_error);
  group.sum(on_host_);
  EXPECT_EQ(host_.sums.size(), 1u);
}

TEST_F(Groups, ASpanOfTheWrongMemoryIsAFault) {
  EXPECT_THROW(host_span(on_device_), std::logic_error);
  EXPECT_THROW(device_span(on_host_), std::logic_error);
  EXPECT_THROW(host_span(torch::zeros({4, 4}).t().narrow(0, 0, 2)), std::logic_error);  // its rows are not together
  EXPECT_EQ(device_span(on_device_).bytes(), 16);
}

}  // namespace
}  // namespace roundtable
