// Setting up a command's ranks, device and threads.
#pragma once

#include <initializer_list>
#include <ostream>

#include "run/run_context.h"

namespace roundtable {

// Ranks of the world and of a node. Collective.
World world_of(MpiCommunicator& world);

// Threads, device, grid and communicators of this rank. `config`, `plan` and `world` must outlive it. Collective.
Environment make_environment(const Config& config, const Plan& plan, MpiCommunicator& world);

// Where progress is drawn: stderr on rank 0, nowhere on the others.
std::ostream& display_stream(const HostCommunicator& world);

}  // namespace roundtable
