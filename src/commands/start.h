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

// The config's model with graphs for `seqlen` tokens per sample, or for those of the token set `tokens`. Collective.
// Throws AgreedError as obtain_model(), and for a token set that cannot be read.
Model model_for(MpiCommunicator& world, const Config& config, std::int64_t seqlen);
Model model_for_tokens(MpiCommunicator& world, const Config& config, const std::string& tokens);

// The models of a run: for calibration, and for run.eval_tokens. Collective. Throws as the former.
Models models_for(MpiCommunicator& world, const Config& config);

// Ranks of the world and of a node. Collective.
World world_of(MpiCommunicator& world);

// What the ranks work on, for World. Throws AgreedError where CUDA devices are asked for that a rank does not have, where
// only some ranks have one, and where two share one without parallel.share_devices. Collective: before anything is
// written.
WorldDevices check_devices(const Config& config, MpiCommunicator& world);

// Threads, device, grid of `shards` ranks per group, communicators of this rank and, with `expert_parts` of the plan,
// its part of the experts. `world` must outlive the result. Collective. Throws AgreedError as
// check_devices().
RankContext make_rank_context(const Config& config, int shards, int expert_parts, MpiCommunicator& world);

// Where progress is drawn: stderr on rank 0, nowhere on the others.
std::ostream& display_stream(const HostCommunicator& world);

}  // namespace roundtable
