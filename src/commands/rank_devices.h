// The devices of all ranks of a job, which are of one kind.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace roundtable {

// What a rank works on.
struct RankDevice {
  std::string node;
  bool is_cuda = false;
  std::string reason;  // why it is a CPU

  NLOHMANN_DEFINE_TYPE_INTRUSIVE(RankDevice, node, is_cuda, reason)
};

// Why ranks with these devices (by rank) cannot work together, as one line with the fix, or nothing. Where some have a
// CUDA device and others none, a node is broken: sums of their gradients could not be made.
std::optional<std::string> fault_of_devices(const std::vector<RankDevice>& ranks);

// Throws AgreedError (kMachine) with that line on all ranks. Collective.
void check_devices(HostCommunicator& world, const RankDevice& mine);

}  // namespace roundtable
