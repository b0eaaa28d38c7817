// Comparing what the ranks have found.
#include "commands/rank_devices.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "comm/agree.h"

namespace roundtable {

std::optional<std::string> fault_of_devices(const std::vector<RankDevice>& ranks) {
  const auto on_cuda = std::count_if(ranks.begin(), ranks.end(), [](const RankDevice& rank) { return rank.is_cuda; });
  if (on_cuda == 0 || on_cuda == std::ssize(ranks)) return std::nullopt;
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

void check_devices(HostCommunicator& world, const RankDevice& mine) {
  std::vector<RankDevice> all;
  for (const std::string& text : all_gather_text(world, nlohmann::json(mine).dump())) {
    all.push_back(nlohmann::json::parse(text).get<RankDevice>());
  }
  run_on_root(world, [&] {
    if (const auto fault = fault_of_devices(all)) throw Error(ExitCode::kMachine, *fault);
  });
}

}  // namespace roundtable
