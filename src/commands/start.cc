// Reading the config, choosing a device, dividing the ranks.
#include "commands/start.h"

#include <torch/types.h>

#include <cstdlib>
#include <iostream>

#include "base/activity.h"
#include "base/error.h"
#include "comm/agree.h"
#include "comm/nccl/nccl.h"
#include "commands/checks/rank_devices.h"
#include "data/token_set.h"
#include "device/device.h"
#include "device/process.h"
#include "graph/obtain.h"
#include "graph/stored_head.h"

namespace roundtable {
namespace {

struct ChosenDevice {
  torch::Device mine;
  WorldDevices all;
};

// The device of this rank by parallel.backend: `auto` takes CUDA where LibTorch finds a device. All ranks have one of the
// same kind. Collective.
ChosenDevice choose_device(const Config& config, MpiCommunicator& world, int rank_in_node) {
  RankDevice mine{.node = host_name(), .reason = "this build has no CUDA and NCCL"};
  std::optional<torch::Device> found;
  const bool by_choice = config.parallel.backend == Backend::kMpi;
  if (by_choice) mine.reason = "parallel.backend is mpi";
  if (!by_choice && nccl_available()) {
    found = cuda_device_of(rank_in_node);
    mine.is_cuda = found.has_value();
    mine.reason = found ? "" : why_no_cuda_device();
  }
  if (found) {
    const DeviceIdentity identity = identity_of(*found);
    mine.name = identity.name;
    mine.uuid = identity.uuid;
  }
  const std::vector<RankDevice> ranks = gather_devices(world, mine, config.parallel.share_devices);
  run_on_all(world, [&] {
    const auto asking = who_asks_for_cuda(config, std::getenv("SLURM_GPUS_ON_NODE"));
    if (!asking || found) return;
    throw bad_input(*asking, fmt::format("CUDA devices are asked for, and there is none here: {}", mine.reason),
                    "set parallel.backend: mpi to work on CPUs");
  });
  const std::string version = nccl_version();
  return {found.value_or(torch::kCPU),
          {describe_devices(ranks, version), describe_kinds(ranks, version), by_choice ? "" : mine.reason}};
}

std::unique_ptr<DeviceCommunicator> device_communicator(RankGrid& grid, const torch::Device& device) {
  if (!device.is_cuda()) return nullptr;
  return make_nccl_communicator(grid.group_comm(), current_stream(device));
}

}  // namespace

Config load_config_everywhere(MpiCommunicator& world, const std::string& path,
                              const std::vector<std::string>& overrides, const std::string& cluster_file) {
  // The file itself may be on rank 0's node alone; its resolved form travels.
  const std::string yaml = run_on_root(world, [&] { return to_yaml(load_config(path, overrides, cluster_file)); });
  return parse_config(yaml, path);
}

Model model_for(MpiCommunicator& world, const Config& config, std::int64_t seqlen) {
  return obtain_model(world, {.model = config.model.path,
                              .folder = config.model.graph,
                              .seqlen = seqlen,
                              .dtype = config.tuning.amp ? torch::kBFloat16 : torch::kFloat32,
                              .trust_remote_code = config.model.trust_remote_code});
}

Model model_for_tokens(MpiCommunicator& world, const Config& config, const std::string& tokens) {
  const std::int64_t seqlen = run_on_root(world, [&] { return token_set_shape(tokens).seqlen; });
  const Model model = model_for(world, config, seqlen);
  Model used;
  run_on_all(world, [&] { used = with_head_of(model, config.model.path); });
  return used;
}

Models models_for(MpiCommunicator& world, const Config& config) {
  Models models;
  models.calibration = model_for(world, config, config.calibration.seqlen);
  models.evaluation = models.calibration;
  if (config.run.eval_tokens.empty()) return models;
  const std::int64_t seqlen = run_on_root(world, [&] { return token_set_shape(config.run.eval_tokens).seqlen; });
  if (seqlen != config.calibration.seqlen) models.evaluation = model_for(world, config, seqlen);
  return models;
}

World world_of(MpiCommunicator& world) {
  const auto node = world.split_by_node();
  // Nodes may be filled unevenly; the layout follows rank 0's node.
  return {world.size(), world.broadcast_value(node->size(), 0)};
}

WorldDevices check_devices(const Config& config, MpiCommunicator& world) {
  const auto node = world.split_by_node();
  return choose_device(config, world, node->rank()).all;
}

RankContext make_rank_context(const Config& config, int shards, int expert_parts, MpiCommunicator& world) {
  const auto node = world.split_by_node();
  keep_freed_memory();
  set_threads(config.parallel.threads, node->rank(), node->size());
  const torch::Device device = choose_device(config, world, node->rank()).mine;
  use_device(device);
  set_memory_gauge([device] { return MemoryUse{peak_resident_bytes(), peak_device_bytes(device)}; });
  if (device.is_cuda() && config.tuning.enable_deterministic_algorithms) ask_for_determinism();
  RankGrid grid(world, shards);
  std::unique_ptr<DeviceCommunicator> device_group = device_communicator(grid, device);
  const ExpertPart part = expert_parts > 1 ? ExpertPart{grid.shard(), expert_parts} : ExpertPart{};
  std::shared_ptr<ExpertExchange> exchange;
  if (part.divides()) {
    exchange = std::make_shared<ExpertExchange>(
        ExpertExchange{{grid.group_comm(), device_group.get()}, config.run.reproducible});
  }
  return {.world = world,
          .grid = std::move(grid),
          .device = device,
          .dtype = config.tuning.amp ? torch::kBFloat16 : torch::kFloat32,
          .device_group = std::move(device_group),
          .expert_part = part,
          .exchange = std::move(exchange)};
}

std::ostream& display_stream(const HostCommunicator& world) {
  static std::ostream nowhere(nullptr);
  return world.rank() == 0 ? std::cerr : nowhere;
}

}  // namespace roundtable
