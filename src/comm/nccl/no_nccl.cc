// Takes the place of nccl.cc in builds without a CUDA toolkit.
#include "base/error.h"
#include "comm/nccl/nccl.h"

namespace roundtable {

bool nccl_available() { return false; }

std::string nccl_version() { return ""; }

std::unique_ptr<DeviceCommunicator> make_nccl_communicator(HostCommunicator&, const Stream&) {
  throw bad_input("parallel.backend", "this build has no NCCL", "build where a CUDA toolkit is found, or choose 'mpi'");
}

}  // namespace roundtable
