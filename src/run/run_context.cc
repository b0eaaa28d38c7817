// The choice of this rank's device.
#include "run/run_context.h"

#include <torch/types.h>

#include <optional>

#include "base/error.h"
#include "comm/nccl/nccl.h"
#include "device/device.h"

namespace roundtable {

torch::Device choose_device(const ParallelSection& section, int rank_in_node) {
  std::optional<torch::Device> found;
  if (section.backend != "mpi" && nccl_available()) found = cuda_device_of(rank_in_node);
  if (section.backend == "nccl" && !found) {
    throw bad_input("parallel.backend", "'nccl' needs a CUDA device and a build with NCCL, and there is none here",
                    "use 'auto' or 'mpi'");
  }
  return found.value_or(torch::kCPU);
}

}  // namespace roundtable
