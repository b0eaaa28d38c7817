// The choice of this rank's device.
#include "run/run_context.h"

#include <torch/cuda.h>
#include <torch/types.h>

#include "base/error.h"
#include "comm/nccl/nccl.h"

namespace roundtable {

torch::Device choose_device(const ParallelSection& section, int rank_in_node) {
  const bool found = section.backend != Backend::kMpi && torch::cuda::is_available() && nccl_available();
  if (section.backend == Backend::kNccl && !found) {
    throw bad_input("parallel.backend", "'nccl' needs a CUDA device and a build with NCCL, and there is none here",
                    "use 'auto' or 'mpi'");
  }
  if (!found) return torch::kCPU;
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(rank_in_node % static_cast<int>(torch::cuda::device_count()))};
}

}  // namespace roundtable
