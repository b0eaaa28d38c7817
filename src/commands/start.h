// What every command does first: the config, the ranks, their devices and threads.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "comm/mpi/communicator.h"
#include "config/config.h"
#include "plan/plan.h"
#include "run/run_context.h"

namespace roundtable {

// Reads and checks the config on rank 0, with `cluster_file` over it if not empty, and gives every rank the same.
// Collective. An Error there is thrown on all ranks as AgreedError.
Config load_config_everywhere(MpiCommunicator& world, const std::string& path,
                              const std::vector<std::string>& overrides, const std::string& cluster_file);

// Ranks of the world and of a node. Collective.
World world_of(MpiCommunicator& world);

// Throws AgreedError where parallel.backend asks for a device that a rank does not have. Collective: before anything is
// written.
void check_backend(const Config& config, MpiCommunicator& world);

// Threads, device, grid of `shards` ranks per group, and communicators of this rank. `world` must outlive the result.
// Collective. Throws AgreedError where parallel.backend asks for a device that a rank does not have.
RankContext make_rank_context(const Config& config, int shards, MpiCommunicator& world);

// Where progress is drawn: stderr on rank 0, nowhere on the others.
std::ostream& display_stream(const HostCommunicator& world);

}  // namespace roundtable
