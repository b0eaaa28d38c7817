// What every phase of a run is given: the ranks, the device, the model and the places on disk.
#pragma once

#include <torch/types.h>

#include <memory>
#include <string>

#include "comm/rank_grid.h"
#include "config/config.h"
#include "model/load/tensor_source.h"
#include "plan/plan.h"
#include "rundir/paths.h"
#include "tune/gradients/gradient_group.h"

namespace roundtable {

// Where this run's boundaries lie: its own directory, or a folder of calibration.cache (shared_boundaries.h).
struct BoundaryPlace {
  std::string folder;
  std::string fingerprint;         // digest, in each file and held against on reading
  std::string temporary = ".tmp";  // ends the name of a file that is being written
  bool shared = false;             // with other runs, which may be at work on it now
  std::string about;               // shared: what the fingerprint is of (JSON)

  std::string boundary(std::int64_t first) const { return boundary_in(folder, first); }
};

struct Environment {
  const Config& config;
  const Plan& plan;
  RunPaths paths;
  MpiCommunicator& world;
  RankGrid grid;
  torch::Device device;
  torch::ScalarType dtype;                         // of activations: bf16 with tuning.amp, else fp32
  std::unique_ptr<DeviceCommunicator> device_group;  // the same ranks as grid.group_comm(); null: blocks are on the host
  BoundaryPlace boundaries;

  // The ranks that tune a block together.
  GradientGroup gradient_group() { return {grid.group_comm(), device_group.get()}; }
};

// The device and backend of this rank by parallel.backend: `auto` takes CUDA where LibTorch finds a device.
// Throws Error (kBadInput) when nccl is asked for and no device is there.
torch::Device choose_device(const ParallelSection& section, int rank_in_node);

}  // namespace roundtable
