// Communicator over NCCL (device memory), on the CUDA stream that LibTorch works on.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace roundtable {

// Whether this build has NCCL at all.
bool nccl_available();

// A communicator over the same ranks as `host` for data on CUDA device `device`. The id travels over `host`.
// `stream` is a cudaStream_t: every collective is enqueued there and the call returns before it has run, so that
// results are ordered with kernels on that stream. Sums that are only started run on a stream of the communicator's own,
// behind what was enqueued on `stream` until then; wait() puts what comes next on `stream` behind them.
// Collective over `host`.
// Throws Error (kMachine) on NCCL errors, asynchronous ones included, and where the build has no NCCL.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host, int device, void* stream);

}  // namespace roundtable
