// How this job was started: what the launcher and the node must give it, before any work.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "comm/mpi/communicator.h"
#include "config/config.h"

namespace roundtable {

// Why this process does not belong to the job that its user meant, as one line, or nothing. `ranks` is the size of
// MPI's world. srun without PMI starts many processes, and each of them is a world of its own: each would do the whole
// run. Reads the environment, in which srun describes its tasks.
std::optional<std::string> fault_of_launch(int ranks);

// Whether this process is the one of srun's tasks that prints that line.
bool speaks_for_srun();

// Throws Error (kBadInput) where `folder` has not enough space left for the shared memory of `ranks` processes of one
// node: without it Open MPI aborts or becomes slow, and NCCL (`with_nccl`) cannot start. A single process needs none.
void check_shared_memory(int ranks, bool with_nccl, const std::string& folder = "/dev/shm");

// The same for every node of the job. Collective over the world; throws AgreedError.
void check_shared_memory_everywhere(MpiCommunicator& world, const Config& config);

}  // namespace roundtable
