// The communicator over NCCL, for the memory of CUDA devices.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "device/stream.h"

namespace roundtable {

// Whether this build has NCCL at all.
bool nccl_available();

// A communicator over the same ranks as `host`, each with the CUDA device that its stream is of; no two ranks share a
// device. Collectives run in the order of `stream`, which must exist as long as the communicator does. Sums that are
// only started run on a stream of the communicator's own.
//
// Collective over `host`, which carries NCCL's id. Throws Error: kMachine on errors of NCCL and CUDA, kBadInput if the
// build has no NCCL. NCCL's asynchronous errors (a peer that died, a broken link) are looked for at each call and
// thrown by the next one.
std::unique_ptr<DeviceCommunicator> make_nccl_communicator(HostCommunicator& host, const Stream& stream);

}  // namespace roundtable
