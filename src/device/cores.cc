// Two ranks of a GPU node on the two threads of one core are half as fast as each on a core of its own: all counts are
// of cores.
#include "device/cores.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>

#include "base/sample_range.h"

namespace roundtable {
namespace {

// Takes a number from the front of the text.
bool take_number(const char*& at, const char* end, int& number) {
  const auto [next, error] = std::from_chars(at, end, number);
  if (error != std::errc() || number < 0) return false;
  at = next;
  return true;
}

// The first hardware thread of the CPU's core.
int first_of_core(int cpu, const std::string& topology) {
  std::ifstream file(topology + "/cpu" + std::to_string(cpu) + "/topology/core_cpus_list");
  std::string line;
  if (!std::getline(file, line)) return cpu;
  const std::vector<int> siblings = parse_cpu_list(line);
  return siblings.empty() ? cpu : *std::min_element(siblings.begin(), siblings.end());
}

}  // namespace

std::vector<int> parse_cpu_list(const std::string& text) {
  constexpr int kMost = 1 << 16;
  std::vector<int> cpus;
  const char *at = text.data(), *const end = text.data() + text.size();
  while (at != end) {
    int first = 0;
    if (!take_number(at, end, first)) return {};
    int last = first;
    if (at != end && *at == '-' && !take_number(++at, end, last)) return {};
    if (last < first || last >= kMost) return {};
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (at != end && *at++ != ',') return {};
  }
  return cpus;
}

Cores cores_of(const std::vector<int>& cpus, const std::string& topology) {
  std::map<int, std::vector<int>> by_core;
  for (const int cpu : cpus) by_core[first_of_core(cpu, topology)].push_back(cpu);
  Cores cores;
  for (auto& [first, threads] : by_core) cores.push_back(std::move(threads));
  return cores;
}

Placement place_rank(const Cores& allowed, const Cores& bound, int rank_in_node, int ranks_in_node) {
  const SampleRange part = part_of(static_cast<std::int64_t>(allowed.size()), ranks_in_node, rank_in_node);
  Placement placement;
  if (bound.size() > 1 || part.size() <= 1) {
    const auto cores = static_cast<std::int64_t>(bound.size());
    placement.threads = static_cast<int>(std::max<std::int64_t>(1, std::min(cores, part.size())));
    return placement;
  }
  placement.threads = static_cast<int>(part.size());
  for (std::int64_t i = part.begin; i < part.end; ++i) {
    const std::vector<int>& core = allowed[static_cast<std::size_t>(i)];
    placement.cpus.insert(placement.cpus.end(), core.begin(), core.end());
  }
  return placement;
}

}  // namespace roundtable
