// The cores of a node, and those of one rank. A core may have several hardware threads, which Linux calls CPUs.
#pragma once

#include <string>
#include <vector>

namespace roundtable {

// Each element is a core: the numbers of those of its hardware threads that were asked for. In the order of the first
// of them.
using Cores = std::vector<std::vector<int>>;

// The cores that these CPUs belong to, by the files of `topology` (Linux: sysfs-devices-system-cpu,
// cpuN/topology/core_cpus_list). A CPU whose file cannot be read is a core of its own.
Cores cores_of(const std::vector<int>& cpus, const std::string& topology = "/sys/devices/system/cpu");

// "0,112" or "0-3,8" -> numbers; empty for text that is no such list.
std::vector<int> parse_cpu_list(const std::string& text);

struct Placement {
  int threads = 1;
  std::vector<int> cpus;  // that the rank is to be bound to; empty: its binding stays
};

// What a rank gets: its part of the node's cores, which are `allowed` to the job. A binding to several cores was chosen
// by somebody, and stays: the rank then has as many threads as cores there, but no more than its part. A binding to one
// core is Open MPI's default, which starves OpenMP, and is replaced.
Placement place_rank(const Cores& allowed, const Cores& bound, int rank_in_node, int ranks_in_node);

}  // namespace roundtable
