// Putting an Environment together.
#include "device/process.h"
#include "commands/start.h"

#include <torch/types.h>

#include <iostream>

#include "base/error.h"
#include "comm/nccl/nccl.h"
#include "device/stream.h"

namespace roundtable {
namespace {

std::unique_ptr<Communicator> device_communicator(RankGrid& grid, const torch::Device& device) {
  if (!device.is_cuda()) return nullptr;
  return make_nccl_communicator(grid.group_comm(), device.index(), current_device_stream(device.index()));
}

}  // namespace

World world_of(MpiCommunicator& world) {
  const auto node = world.split_by_node();
  // Nodes may be filled unevenly; the layout goes by rank 0's.
  int ranks_a_node = node->size();
  world.broadcast(&ranks_a_node, sizeof(ranks_a_node), 0);
  return {world.size(), ranks_a_node};
}

Environment make_environment(const Config& config, const Plan& plan, MpiCommunicator& world) {
  const auto node = world.split_by_node();
  keep_freed_memory();
  set_threads(config.parallel.threads, node->rank(), node->size());
  torch::Device device = torch::kCPU;
  run_on_all(world, [&] { device = choose_device(config.parallel, node->rank()); });
  RankGrid grid(world, plan.shards);
  std::unique_ptr<Communicator> device_group = device_communicator(grid, device);
  return {config, plan,   RunPaths(config, plan.tuned_in_place),        world,
          std::move(grid), device, config.tuning.amp ? torch::kBFloat16 : torch::kFloat32, std::move(device_group), {}};
}

std::ostream& display_stream(const Communicator& world) {
  static std::ostream nowhere(nullptr);
  return world.rank() == 0 ? std::cerr : nowhere;
}

}  // namespace roundtable
