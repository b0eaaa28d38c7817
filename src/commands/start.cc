// Putting an Environment together.
#include "commands/start.h"

#include <torch/types.h>

#include <iostream>

#include "base/error.h"
#include "comm/agree.h"
#include "comm/nccl/nccl.h"
#include "device/device.h"
#include "device/process.h"

namespace roundtable {
namespace {

std::unique_ptr<DeviceCommunicator> device_communicator(RankGrid& grid, const torch::Device& device) {
  if (!device.is_cuda()) return nullptr;
  return make_nccl_communicator(grid.group_comm(), current_stream(device));
}

}  // namespace

World world_of(MpiCommunicator& world) {
  const auto node = world.split_by_node();
  // Nodes may be filled unevenly; the layout goes by rank 0's.
  return {world.size(), world.broadcast_value(node->size(), 0)};
}

Environment make_environment(const Config& config, const Plan& plan, MpiCommunicator& world) {
  const auto node = world.split_by_node();
  keep_freed_memory();
  set_threads(config.parallel.threads, node->rank(), node->size());
  torch::Device device = torch::kCPU;
  run_on_all(world, [&] { device = choose_device(config.parallel, node->rank()); });
  RankGrid grid(world, plan.shards);
  std::unique_ptr<DeviceCommunicator> device_group = device_communicator(grid, device);
  return {config, plan,   RunPaths(config, plan.tuned_in_place),        world,
          std::move(grid), device, config.tuning.amp ? torch::kBFloat16 : torch::kFloat32, std::move(device_group), {}};
}

std::ostream& display_stream(const HostCommunicator& world) {
  static std::ostream nowhere(nullptr);
  return world.rank() == 0 ? std::cerr : nowhere;
}

}  // namespace roundtable
