// NCCL's calls.
#include "tests/standin/nccl/communicator.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include "tests/standin/device/checks.h"
#include "tests/standin/device/memory.h"
#include "tests/standin/device/settings.h"
#include "tests/standin/runtime/state.h"

using namespace roundtable::standin;

namespace {

// Communicators by NCCL's handle. An aborted one is still known to the work that it dropped.
std::map<ncclComm_t, std::shared_ptr<ncclComm>>& communicators() {
  static auto* made = new std::map<ncclComm_t, std::shared_ptr<ncclComm>>;
  return *made;
}

thread_local std::string last_error;

struct GroupPart {
  Part part;
  ncclComm_t comm;
  cudaStream_t stream;
};
thread_local int group_depth = 0;
thread_local std::vector<GroupPart> group;

void must_be_on_device(const ncclComm& comm, const void* memory, const char* call) {
  const int device = device_of(memory);
  if (device != comm.device) {
    fault(std::string(call) + " is given memory of " + (device < 0 ? "the host" : "another device"));
  }
  if (current_device() != comm.device) {
    fault(std::string(call) + " of device " + std::to_string(comm.device) + " is called on a thread whose device is " +
          std::to_string(current_device()));
  }
}

void enqueue(ncclComm_t comm, cudaStream_t handle, const std::vector<Access>& accesses, const char* call, Work work) {
  Lock lock = lock_streams();
  Stream& stream = stream_of(lock, handle);
  if (stream.device != comm->device) fault(std::string(call) + " is given a stream of another device");
  start(lock, stream, accesses, call, std::move(work));
  comm->last[handle] = stream.started;
}

ncclResult_t collective(const char* call, Work (*make)(const std::shared_ptr<ncclComm>&, const void*, void*,
                                                       const CollectiveHeader&),
                        const void* from, void* to, std::size_t bytes_out, std::size_t count, ncclDataType_t type,
                        int detail, ncclComm_t comm, cudaStream_t stream) {
  must_be_on_device(*comm, from, call);
  must_be_on_device(*comm, to, call);
  CollectiveHeader header;
  std::snprintf(header.call, sizeof header.call, "%s", call);
  header.count = static_cast<std::int64_t>(count);
  header.type = type;
  header.detail = detail;
  ++counts().sums;
  enqueue(comm, stream, {{from, count * size_of(type), false}, {to, bytes_out, true}}, call,
          make(communicators().at(comm), opened(from), opened(to), header));
  return ncclSuccess;
}

ncclResult_t run_group() {
  std::vector<GroupPart> parts = std::exchange(group, {});
  while (!parts.empty()) {
    const ncclComm_t comm = parts.front().comm;
    const cudaStream_t stream = parts.front().stream;
    std::vector<Part> mine;
    std::vector<Access> accesses;
    std::erase_if(parts, [&](const GroupPart& g) {
      if (g.comm != comm || g.stream != stream) return false;
      accesses.push_back({g.part.memory, g.part.bytes, !g.part.sends});
      mine.push_back({g.part.sends, opened(g.part.memory), g.part.bytes, g.part.peer});
      return true;
    });
    enqueue(comm, stream, accesses, "ncclSend and ncclRecv", send_and_receive(communicators().at(comm), mine));
  }
  return ncclSuccess;
}

ncclResult_t add_part(bool sends, const void* memory, std::size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream, const char* call) {
  must_be_on_device(*comm, memory, call);
  group.push_back({{sends, const_cast<void*>(memory), count * size_of(type), peer}, comm, stream});
  return group_depth == 0 ? run_group() : ncclSuccess;
}

// All ranks meet. Two on one device are refused, as by NCCL.
ncclResult_t meet(ncclComm& comm) {
  comm.mailbox.put("rank." + std::to_string(comm.rank), &comm.device, sizeof comm.device);
  ncclResult_t result = ncclSuccess;
  for (int rank = 0; rank < comm.size; ++rank) {
    std::optional<std::vector<char>> theirs;
    while (!(theirs = comm.mailbox.find("rank." + std::to_string(rank)))) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    int device = 0;
    std::memcpy(&device, theirs->data(), sizeof device);
    if (rank == comm.rank || device != comm.device) continue;
    last_error = "Duplicate GPU detected : rank " + std::to_string(comm.rank) + " and rank " + std::to_string(rank) +
                 " both on CUDA device " + std::to_string(device);
    result = ncclInvalidUsage;
  }
  return result;
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclInvalidUsage: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError: return "remote process exited or there was a network error";
    default: return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t) { return last_error.c_str(); }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int made = 0;
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->internal, sizeof id->internal, "standin-nccl.%d.%d", getpid(), made++);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId id, int rank) {
  note_context(current_device(), "ncclCommInitRank");
  auto made = std::make_shared<ncclComm>(id.internal, rank, size, current_device());
  *comm = made.get();
  communicators()[made.get()] = made;
  return meet(*made);
}

// Waits for the sums that are under way, and through them for other ranks, as NCCL does.
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  {
    Lock lock = lock_streams();
    for (const auto& [handle, number] : comm->last) wait_for(lock, stream_of(lock, handle), number);
  }
  // The last rank to read the messages of the last collective removes the folder.
  comm->mailbox.put("left." + std::to_string(comm->rank), "", 0);
  int left = 0;
  for (int rank = 0; rank < comm->size; ++rank) left += comm->mailbox.find("left." + std::to_string(rank)) ? 1 : 0;
  if (left == comm->size) comm->mailbox.remove_all();
  communicators().erase(comm);
  return ncclSuccess;
}

// Drops what is under way. May be called while another thread waits for a sum.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->aborted = true;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  *error = ++comm->questions >= settings().nccl_error.count && settings().nccl_error.count > 0 ? ncclRemoteError
                                                                                             : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t operation,
                           ncclComm_t comm, cudaStream_t stream) {
  return collective("ncclAllReduce", all_reduce, from, to, count * size_of(type), count, type, operation, comm, stream);
}

ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  const std::size_t bytes = count * size_of(type) * static_cast<std::size_t>(comm->size);
  return collective("ncclAllGather", all_gather, from, to, bytes, count, type, 0, comm, stream);
}

ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return collective("ncclBroadcast", broadcast, from, to, count * size_of(type), count, type, root, comm, stream);
}

ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() { return --group_depth == 0 ? run_group() : ncclSuccess; }

ncclResult_t ncclSend(const void* memory, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add_part(true, memory, count, type, peer, comm, stream, "ncclSend");
}
ncclResult_t ncclRecv(void* memory, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add_part(false, memory, count, type, peer, comm, stream, "ncclRecv");
}

}  // extern "C"
