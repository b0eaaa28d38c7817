// Threads, cores and host memory of this process, by the operating system's own calls.
#include "device/process.h"

#include <malloc.h>
#include <sched.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <fstream>
#include <string>
#include <vector>

#include "device/cores.h"

namespace roundtable {
namespace {

std::vector<int> cpus_of(const cpu_set_t& set) {
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

// The CPUs that the operating system's own limits (cpuset, Slurm's cgroup) leave this process, whatever it is bound
// to at the moment: the kernel cuts an all-ones mask down to them. The old binding is put back.
std::vector<int> allowed_cpus(const cpu_set_t& bound) {
  cpu_set_t all;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) CPU_SET(cpu, &all);
  cpu_set_t allowed = bound;
  if (sched_setaffinity(0, sizeof(all), &all) == 0) sched_getaffinity(0, sizeof(allowed), &allowed);
  sched_setaffinity(0, sizeof(bound), &bound);
  return cpus_of(allowed);
}

}  // namespace

int set_threads(std::int64_t wanted, int rank_in_node, int ranks_in_node) {
  cpu_set_t bound;
  CPU_ZERO(&bound);
  Placement placement;
  if (sched_getaffinity(0, sizeof(bound), &bound) == 0) {
    placement = place_rank(cores_of(allowed_cpus(bound)), cores_of(cpus_of(bound)), rank_in_node, ranks_in_node);
  }
  if (!placement.cpus.empty()) {
    cpu_set_t mine;
    CPU_ZERO(&mine);
    for (const int cpu : placement.cpus) CPU_SET(cpu, &mine);
    sched_setaffinity(0, sizeof(mine), &mine);
  }
  const int threads = wanted > 0 ? static_cast<int>(wanted) : placement.threads;
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
