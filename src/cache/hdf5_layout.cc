// Property lists of HDF5, and MPI-IO's hints.
#include "cache/hdf5_layout.h"

#include <mpi.h>

#include <string>

namespace roundtable {
namespace {

// Hints by the names that MPI reserves (MPI 4.1, section 14.2.8).
class Hints {
 public:
  explicit Hints(const FileLayout& layout) {
    if (layout.stripe_count == 0 && layout.stripe_bytes == 0) return;
    check_mpi(MPI_Info_create(&info_), "MPI_Info_create");
    set("striping_factor", layout.stripe_count);
    set("striping_unit", layout.stripe_bytes);
  }
  ~Hints() {
    if (info_ != MPI_INFO_NULL) MPI_Info_free(&info_);
  }
  Hints(const Hints&) = delete;
  Hints& operator=(const Hints&) = delete;

  MPI_Info get() const { return info_; }

 private:
  void set(const char* name, std::int64_t value) {
    if (value > 0) check_mpi(MPI_Info_set(info_, name, std::to_string(value).c_str()), "MPI_Info_set");
  }

  MPI_Info info_ = MPI_INFO_NULL;
};

}  // namespace

Hdf5Handle parallel_access(const MpiCommunicator& comm, const FileLayout& layout, std::int64_t least_aligned,
                           const std::string& path) {
  Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, path, "H5Pcreate");
  check_hdf5(H5Pset_fapl_mpio(access.get(), comm.native(), Hints(layout).get()), path, "H5Pset_fapl_mpio");
  if (layout.alignment > 0) {
    const auto least = static_cast<hsize_t>(least_aligned), alignment = static_cast<hsize_t>(layout.alignment);
    check_hdf5(H5Pset_alignment(access.get(), least, alignment), path, "H5Pset_alignment");
  }
  return access;
}

Hdf5Handle transfer_list(const FileLayout& layout, const std::string& path) {
  Hdf5Handle transfer(H5Pcreate(H5P_DATASET_XFER), H5Pclose, path, "H5Pcreate");
  if (layout.collective) {
    check_hdf5(H5Pset_dxpl_mpio(transfer.get(), H5FD_MPIO_COLLECTIVE), path, "H5Pset_dxpl_mpio");
  }
  return transfer;
}

}  // namespace roundtable
