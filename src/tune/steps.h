// A step as the host sees it: the samples that it takes, and later its loss and whether a rank wants to leave.
#pragma once

#include <c10/core/Event.h>
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/sample_range.h"
#include "data/sampler.h"

namespace roundtable {

// The samples that this rank has of each step, as rows of its own samples. The rows of all steps are sent to the device
// once, since each copy would make the device wait for the host.
class StepRows {
 public:
  // `range`: the samples that this rank has. `device`: where they are.
  StepRows(const Sampler& sampler, std::int64_t iters, const SampleRange& range, const torch::Device& device);

  // The number of this rank's samples in a step.
  std::size_t count(std::int64_t step) const { return static_cast<std::size_t>(start(step + 1) - start(step)); }
  // Of them those in [first, last): int64 [last - first], on the device.
  torch::Tensor some(std::int64_t step, std::size_t first, std::size_t last) const {
    return rows_.narrow(0, start(step) + static_cast<std::int64_t>(first), static_cast<std::int64_t>(last - first));
  }
  // The samples of a step of all ranks.
  std::int64_t batch() const { return batch_; }

 private:
  std::int64_t start(std::int64_t step) const { return starts_[static_cast<std::size_t>(step)]; }

  std::int64_t batch_;
  std::vector<std::int64_t> starts_;
  torch::Tensor rows_;
};

struct StepReport {
  std::int64_t iteration = 0;
  bool leave = false;      // a rank wants to
  float loss = 0;          // of all ranks
  torch::Tensor own_part;  // this rank's part of it, where the blocks are
};

// Reports from a CPU are there at once. Those from a device may come one step late: they are copied while the next step
// runs, and the device never waits until the host has read one.
class StepReports {
 public:
  StepReports(const torch::Device& device, bool late);

  // `tail` [2], fp32: the number of ranks that want to leave, and the loss. Returns the report that is due: that of
  // this step; or, if late, that of the step before, of which there is none at first.
  std::optional<StepReport> put(std::int64_t iteration, const torch::Tensor& tail, torch::Tensor own_part);

  // The last report, if put() has not returned it.
  std::optional<StepReport> last();

 private:
  struct Slot {
    torch::Tensor numbers;  // [2] in the memory of the host
    torch::Tensor own_part;
    std::int64_t iteration = -1;  // none
    std::optional<c10::Event> copied;
  };
  std::optional<StepReport> take(Slot& slot);

  torch::Device device_;
  bool late_;
  std::array<Slot, 2> slots_;
  std::size_t next_ = 0;
};

}  // namespace roundtable
