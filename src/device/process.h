// The threads, cores and host memory of this process.
#pragma once

#include <cstdint>

namespace roundtable {

// Sets this process's threads and cores: `wanted` threads (0: those of its placement), on the cores of place_rank() of
// cores.h. Returns the number of threads.
int set_threads(std::int64_t wanted, int rank_in_node, int ranks_in_node);

// Tells the C library to keep freed blocks of up to 32 MB: activations of each step come and go, and pages that are
// given back to the system must be cleared again (glibc; nothing elsewhere).
void keep_freed_memory();

// The largest resident set of this process since the last reset, in bytes (Linux: VmHWM).
std::int64_t peak_resident_bytes();
void reset_peak_resident_bytes();

}  // namespace roundtable
