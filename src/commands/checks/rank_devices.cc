// Comparing what the ranks have found.
#include "commands/checks/rank_devices.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <tuple>

#include "base/error.h"
#include "comm/agree.h"

namespace roundtable {
namespace {

std::optional<std::string> shared_device(const std::vector<RankDevice>& ranks) {
  std::map<std::tuple<std::string, std::string>, std::size_t> first;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    const RankDevice& one = ranks[rank];
    const auto [found, is_new] = first.try_emplace({one.node, one.uuid}, rank);
    if (is_new) continue;
    return fmt::format(
        "ranks {} and {} on {}: both have the device {} ({}); start one rank per device (--ntasks-per-node), or set "
        "parallel.share_devices: true if they are in groups of their own",
        found->second, rank, one.node, one.name, one.uuid);
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> fault_of_devices(const std::vector<RankDevice>& ranks, bool sharing) {
  const auto on_cuda = std::count_if(ranks.begin(), ranks.end(), [](const RankDevice& rank) { return rank.is_cuda; });
  if (on_cuda == 0) return std::nullopt;
  if (on_cuda == std::ssize(ranks)) return sharing ? std::nullopt : shared_device(ranks);
  std::set<std::string> nodes;
  for (const RankDevice& rank : ranks) {
    if (!rank.is_cuda) nodes.insert(rank.node);
  }
  const auto first = std::find_if(ranks.begin(), ranks.end(), [](const RankDevice& rank) { return !rank.is_cuda; });
  const std::string others = nodes.size() > 1 ? fmt::format(", and {} more nodes", nodes.size() - 1) : "";
  return fmt::format(
      "rank {} on {}{}: there is no CUDA device ({}), but {} of {} ranks have one; leave that node out of the job (srun "
      "--exclude={}), or set parallel.backend: mpi to work on CPUs everywhere",
      first - ranks.begin(), first->node, others, first->reason, on_cuda, ranks.size(), fmt::join(nodes, ","));
}

// Source of the variable: Slurm's manual of sbatch, OUTPUT ENVIRONMENT VARIABLES.
std::optional<std::string> who_asks_for_cuda(const Config& config, const char* slurm_gpus) {
  switch (config.parallel.backend) {
    case Backend::kMpi:
      return std::nullopt;
    case Backend::kNccl:
      return "parallel.backend: nccl";
    case Backend::kAuto:
      break;
  }
  if (config.cluster.nodes > 0) return "the cluster section, which describes devices (--cluster)";
  const std::string_view gpus = slurm_gpus == nullptr ? "" : slurm_gpus;
  if (!gpus.empty() && gpus != "0") return fmt::format("this Slurm job, which has GPUs (SLURM_GPUS_ON_NODE={})", gpus);
  return std::nullopt;
}

std::string describe_devices(const std::vector<RankDevice>& ranks, const std::string& nccl_version) {
  std::map<std::string, int> kinds;
  for (const RankDevice& rank : ranks) ++kinds[rank.is_cuda ? rank.name : "CPU"];
  std::vector<std::string> texts;
  for (const auto& [name, count] : kinds) texts.push_back(fmt::format("{} x {}", count, name));
  const bool on_cuda = !ranks.empty() && ranks.front().is_cuda;
  if (on_cuda) texts.push_back("NCCL " + nccl_version);
  return fmt::format("{}", fmt::join(texts, ", "));
}

std::string describe_kinds(const std::vector<RankDevice>& ranks, const std::string& nccl_version) {
  std::set<std::string> kinds;
  for (const RankDevice& rank : ranks) {
    if (rank.is_cuda) kinds.insert(rank.name);
  }
  return kinds.empty() ? "" : fmt::format("{}, NCCL {}", fmt::join(kinds, ", "), nccl_version);
}

std::vector<RankDevice> gather_devices(HostCommunicator& world, const RankDevice& mine, bool sharing) {
  std::vector<RankDevice> all;
  for (const std::string& text : all_gather_text(world, nlohmann::json(mine).dump())) {
    all.push_back(nlohmann::json::parse(text).get<RankDevice>());
  }
  run_on_root(world, [&] {
    if (const auto fault = fault_of_devices(all, sharing)) throw Error(ExitCode::kMachine, *fault);
  });
  return all;
}

}  // namespace roundtable
