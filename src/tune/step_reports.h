// What the host learns of each step: its loss, and whether a rank wants to leave.
#pragma once

#include <c10/core/Event.h>
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <optional>

namespace roundtable {

struct StepReport {
  std::int64_t iteration = 0;
  bool leave = false;
  float loss = 0;          // of all ranks
  torch::Tensor own_part;  // this rank's part of it, where the blocks are
};

// Reports from a CPU are there at once. Those from a device may come a step late: they are copied beside the next step's
// work, and the device never waits for the host to have read one.
class StepReports {
 public:
  StepReports(const torch::Device& device, bool late);

  // `tail` [2], fp32: the ranks that want to leave, and the loss. Returns the report that is due: this step's, or, late,
  // the one before it, of which there is none at first.
  std::optional<StepReport> put(std::int64_t iteration, const torch::Tensor& tail, torch::Tensor own_part);

  // The last one, where it is still to come.
  std::optional<StepReport> last();

 private:
  struct Slot {
    torch::Tensor numbers;  // [2] in the host's memory
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
