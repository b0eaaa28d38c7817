// What every phase of a run is given: the ranks, the device, the model and the places on disk.
#pragma once

#include <torch/types.h>

#include <memory>
#include <string>

#include "comm/rank_grid.h"
#include "config/config.h"
#include "model/tensor_source.h"
#include "pipeline/plan.h"
#include "pipeline/run_paths.h"

namespace roundtable {

struct Environment {
  const Config& config;
  const Plan& plan;
  RunPaths paths;
  MpiCommunicator& world;
  RankGrid grid;
  torch::Device device;
  torch::ScalarType dtype;                         // of activations: bf16 with tuning.amp, else fp32
  std::unique_ptr<Communicator> device_group;      // NCCL over the group; null where data is on the host
  BoundaryPlace boundaries;

  // Carries gradients where the block lives.
  Communicator& gradient_group() { return device_group ? *device_group : grid.group_comm(); }
};

// The device and backend of this rank by parallel.backend: `auto` takes CUDA where LibTorch finds a device.
// Throws Error (kBadInput) when nccl is asked for and no device is there.
torch::Device choose_device(const ParallelSection& section, int rank_in_node);

// Sets this process's threads and cores: `wanted` threads, or a fair share of the cores that this rank's node gives
// the job. Widens a binding to fewer cores than that share (Open MPI's default pins a rank to one core, which starves
// OpenMP) and leaves wider ones. Returns the number of threads.
int set_threads(std::int64_t wanted, int rank_in_node, int ranks_in_node);

// Tells the C library to keep freed blocks of up to 32 MB: activations of each step come and go, and pages that are
// given back to the system must be cleared again (glibc; nothing elsewhere).
void keep_freed_memory();

// The largest resident set of this process since the last reset, in bytes (Linux: VmHWM).
std::int64_t peak_resident_bytes();
void reset_peak_resident_bytes();

}  // namespace roundtable
