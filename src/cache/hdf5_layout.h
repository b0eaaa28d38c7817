// A file's layout as HDF5's property lists.
#pragma once

#include "cache/file_layout.h"
#include "cache/hdf5_handle.h"
#include "comm/mpi/communicator.h"

namespace roundtable {

// An access list for a file of `comm`'s ranks, over MPI-IO. Objects from `least_aligned` bytes on are aligned.
Hdf5Handle parallel_access(const MpiCommunicator& comm, const FileLayout& layout, std::int64_t least_aligned,
                           const std::string& path);

// A transfer list for writes of all ranks at a time.
Hdf5Handle transfer_list(const FileLayout& layout, const std::string& path);

}  // namespace roundtable
