// The devices of all ranks of a job, which are of one kind.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"

namespace roundtable {

// What a rank works on.
struct RankDevice {
  std::string node;
  bool is_cuda = false;
  std::string name;    // of a CUDA device: "NVIDIA H100 80GB HBM3"
  std::string uuid;    // of a CUDA device
  std::string reason;  // why it is a CPU

  NLOHMANN_DEFINE_TYPE_INTRUSIVE(RankDevice, node, is_cuda, name, uuid, reason)
};

// Why ranks with these devices (by rank) cannot work together, as one line with the fix, or nothing. Where some have a
// CUDA device and others none, a node is broken: sums of their gradients could not be made. Ranks that share a device
// take its memory from each other, and are allowed only with `sharing` (parallel.share_devices).
std::optional<std::string> fault_of_devices(const std::vector<RankDevice>& ranks, bool sharing);

// What asks for CUDA devices, so that CPUs are no way out: parallel.backend, a cluster section (which describes
// devices), or a Slurm job that has GPUs (SLURM_GPUS_ON_NODE, `slurm_gpus`; null where it is not set). Nothing if CPUs
// will do. parallel.backend: mpi asks for CPUs, whatever the others say.
std::optional<std::string> who_asks_for_cuda(const Config& config, const char* slurm_gpus);

// "8 x NVIDIA H100 80GB HBM3, NCCL 2.29.7", or "2 x CPU"; one entry for each kind.
std::string describe_devices(const std::vector<RankDevice>& ranks, const std::string& nccl_version);

// "NVIDIA H100 80GB HBM3, NCCL 2.29.7", whatever the number of ranks; empty for CPUs.
std::string describe_kinds(const std::vector<RankDevice>& ranks, const std::string& nccl_version);

// The devices of all ranks. Throws AgreedError (kMachine) with the line of fault_of_devices() on all ranks. Collective.
std::vector<RankDevice> gather_devices(HostCommunicator& world, const RankDevice& mine, bool sharing);

}  // namespace roundtable
