// What the phases of a run share: the ranks and the device, the config and the plan, the places on disk, and on rank 0
// what is already done.
#pragma once

#include <torch/types.h>

#include <memory>
#include <string>

#include "comm/rank_grid.h"
#include "config/config.h"
#include "graph/expert_part.h"
#include "graph/experts/exchange.h"
#include "model/load/tensor_record.h"
#include "plan/plan.h"
#include "run/progress.h"
#include "run/resume.h"
#include "rundir/events.h"
#include "rundir/paths.h"
#include "model/group/tensor_group.h"

namespace roundtable {

// Where this run's boundaries are: its own directory, or a folder of calibration.cache (phases/boundary/boundary_cache.h).
struct BoundaryPlace {
  std::string folder;
  std::string fingerprint;         // digest, stored in each file and compared on reading
  std::string temporary = ".tmp";  // ends the name of a file that is being written
  bool shared = false;             // with other runs, which may be at work on it now
  std::string about;               // shared: what the fingerprint is made of (JSON)

  std::string boundary(std::int64_t first) const { return boundary_in(folder, first); }
};

// The ranks of this job as one of them sees them, and what this rank computes on. Complete for a command that has no
// run, such as eval.
struct RankContext {
  MpiCommunicator& world;
  RankGrid grid;
  torch::Device device;
  torch::ScalarType dtype;  // of activations: bf16 with tuning.amp, else fp32
  std::unique_ptr<DeviceCommunicator>
      device_group;  // the same ranks as grid.group_comm(); null: blocks are on the host
  ExpertPart expert_part{};  // what this rank holds of the experts of each block
  std::shared_ptr<ExpertExchange> exchange;  // over the group; null: experts are not divided

  // The ranks that tune a block together.
  TensorGroup tensor_group() { return {grid.group_comm(), device_group.get()}; }
  bool is_root() const { return world.rank() == 0; }
};

// A run, complete from the start. Everything that it refers to outlives it.
struct RunContext {
  RankContext ranks;
  const Config& config;
  const Plan& plan;
  RunPaths paths;
  BoundaryPlace boundaries;
  Progress& progress;               // draws on rank 0 only
  RunState* state;                  // rank 0 of a run; null elsewhere
  EventLog* events;                 // the same
  TensorRecord* tensors = nullptr;  // what the run knows of its model's bytes; null: they are not compared
};

}  // namespace roundtable
