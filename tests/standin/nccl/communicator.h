// A communicator of NCCL: what its ranks send each other, in the order of its calls.
#pragma once

#include <nccl.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/standin/device/stream.h"
#include "tests/standin/nccl/mailbox.h"

// NCCL's own name. Its work keeps it alive through a shared pointer.
struct ncclComm {
  ncclComm(const std::string& name, int rank, int size, int device);

  std::string name;
  int rank;
  int size;
  int device;
  roundtable::standin::Mailbox mailbox;
  std::int64_t collectives = 0;                    // that were started
  std::map<int, std::int64_t> sent, received;      // by peer
  std::map<cudaStream_t, std::uint64_t> last;      // work by stream
  std::atomic<bool> aborted{false};
  std::int64_t questions = 0;                      // for asynchronous errors
};

namespace roundtable::standin {

// What every rank contributes to a collective starts with this; ranks that call different ones are at fault.
struct CollectiveHeader {
  char call[16] = {};
  std::int64_t count = 0;
  int type = 0;
  int detail = 0;  // the operation, or the root
};

std::size_t size_of(ncclDataType_t type);

// Works for the mailbox. Each is asked until it says that it is done; memory is given by its open address.
Work all_reduce(const std::shared_ptr<ncclComm>& comm, const void* from, void* to, const CollectiveHeader& header);
Work all_gather(const std::shared_ptr<ncclComm>& comm, const void* from, void* to, const CollectiveHeader& header);
Work broadcast(const std::shared_ptr<ncclComm>& comm, const void* from, void* to, const CollectiveHeader& header);

struct Part {
  bool sends;
  void* memory;
  std::size_t bytes;
  int peer;
};
Work send_and_receive(const std::shared_ptr<ncclComm>& comm, std::vector<Part> parts);

}  // namespace roundtable::standin
