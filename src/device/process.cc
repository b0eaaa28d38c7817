// Threads, cores and host memory of this process, by the operating system's own calls.
#include "device/process.h"

#include <malloc.h>
#include <sched.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "base/sample_range.h"

namespace roundtable {
namespace {

std::vector<int> cores_of(const cpu_set_t& set) {
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

// The cores that the operating system's own limits (cpuset, Slurm's cgroup) leave this process, whatever it is bound
// to at the moment: the kernel cuts an all-ones mask down to them. The old binding is put back.
std::vector<int> allowed_cores() {
  cpu_set_t bound;
  CPU_ZERO(&bound);
  if (sched_getaffinity(0, sizeof(bound), &bound) != 0) return {};
  cpu_set_t all;
  for (int core = 0; core < CPU_SETSIZE; ++core) CPU_SET(core, &all);
  cpu_set_t allowed = bound;
  if (sched_setaffinity(0, sizeof(all), &all) == 0) sched_getaffinity(0, sizeof(allowed), &allowed);
  sched_setaffinity(0, sizeof(bound), &bound);
  return cores_of(allowed);
}

}  // namespace

int set_threads(std::int64_t wanted, int rank_in_node, int ranks_in_node) {
  const std::vector<int> cores = allowed_cores();
  cpu_set_t bound;
  CPU_ZERO(&bound);
  sched_getaffinity(0, sizeof(bound), &bound);
  const SampleRange share = part_of(static_cast<std::int64_t>(cores.size()), ranks_in_node, rank_in_node);
  if (CPU_COUNT(&bound) < share.size()) {
    cpu_set_t mine;
    CPU_ZERO(&mine);
    for (std::int64_t i = share.begin; i < share.end; ++i) CPU_SET(cores[static_cast<std::size_t>(i)], &mine);
    sched_setaffinity(0, sizeof(mine), &mine);
  }
  const int threads = static_cast<int>(wanted > 0 ? wanted : std::max<std::int64_t>(1, share.size()));
  at::set_num_threads(threads);
  return threads;
}

void keep_freed_memory() {
#ifdef M_MMAP_THRESHOLD
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
#endif
}

std::int64_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    std::int64_t kilobytes = 0;
    if (word == "VmHWM:" && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

void reset_peak_resident_bytes() {
  std::ofstream("/proc/self/clear_refs") << "5";  // see proc(5)
}

}  // namespace roundtable
