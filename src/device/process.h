// The threads, cores and host memory of this process.
#pragma once

#include <cstdint>

namespace roundtable {

// Sets this process's threads and cores: `wanted` threads, or a fair share of the cores that this rank's node gives
// the job. Widens a binding to fewer cores than that share (Open MPI's default pins a rank to one core, which starves
// OpenMP) and leaves wider ones. Returns the number of threads.
int set_threads(std::int64_t wanted, int rank_in_node, int ranks_in_node);

// Tells the C library to keep freed blocks of up to 32 MB: activations of each step come and go, and pages that are
// given back to the system must be cleared again (glibc; nothing elsewhere).
void keep_freed_memory();

// The largest resident set of this process since the last reset, in bytes (Linux: VmHWM).
std::int64_t peak_resident_bytes();
void reset_peak_resident_bytes();

}  // namespace roundtable
