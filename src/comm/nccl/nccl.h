// The communicator over NCCL, for the memory of CUDA devices.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "device/stream.h"

namespace roundtable {

// Whether this build has NCCL at all.
bool nccl_available();

// "2.29.7"; empty if it has not.
std::string nccl_version();

// A communicator over the same ranks as `host`, each with the CUDA device that its stream is of; no two ranks share a
// device. Collectives run in the order of `stream`, which must exist as long as the communicator does. Sums that are
// only started run on a stream of the communicator's own.
//
// Collective over `host`, which carries NCCL's id. Throws Error: kMachine on errors of NCCL and CUDA, kBadInput if the
// build has no NCCL. NCCL's asynchronous errors (a peer that died, a broken link) are thrown by the next call; while no
// call is made, the watchdog finds them (comm/link_check.h).
//
// Where an exception destroys the communicator, its sums are given up: other ranks may never take part in them.
std::unique_ptr<DeviceCommunicator> make_nccl_communicator(HostCommunicator& host, const Stream& stream);

}  // namespace roundtable
