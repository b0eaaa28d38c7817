// How a boundary is laid on a parallel file system.
#pragma once

#include <cstdint>

namespace roundtable {

// What is 0 or false is left to HDF5 and to the file system.
struct FileLayout {
  std::int64_t alignment = 0;     // bytes; every sample of the hidden states begins at a multiple (H5Pset_alignment)
  std::int64_t stripe_count = 0;  // MPI-IO's hint striping_factor: servers that the file is spread over
  std::int64_t stripe_bytes = 0;  // its hint striping_unit
  bool collective = false;        // writes in MPI-IO's two phases: some ranks gather what the others have
};

}  // namespace roundtable
