// `roundtable plan --trial`: a few minutes of everything that a run does for hours, on the real ranks and file systems,
// so that what would fail or be slow at night shows at once.
#pragma once

#include <nlohmann/json.hpp>

#include "comm/mpi/communicator.h"
#include "config/config.h"
#include "plan/plan.h"

namespace roundtable {

// Reads one weight of every shard of the model; writes and reads a small boundary in the run directory; runs a few
// steps of the first block with the run's own batch, threads and memory; times an all-reduce of a block's gradients.
// Leaves nothing behind. `plan` is the whole one on rank 0 and the layout elsewhere. Collective over `world`.
//
// Returns on rank 0 {"read", "boundary", "step", "all_reduce", "disk", "warnings": [text]}: bytes, seconds and bytes a
// second, and in "step" lists with one number per rank. What fails is thrown as in a run.
nlohmann::json run_trial(MpiCommunicator& world, const Config& config, const Plan& plan);

// For people.
std::string describe_trial(const nlohmann::json& trial);

}  // namespace roundtable
