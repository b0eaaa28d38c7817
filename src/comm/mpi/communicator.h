// The communicator over MPI, for host memory, and the life of MPI in this process.
#pragma once

#include <mpi.h>

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace roundtable {

// Throws Error (kMachine) with the call and MPI's own words when `code` is not MPI_SUCCESS.
void check_mpi(int code, const char* call);

// Owns one MPI communicator, with errors returned and checked (MPI_ERRORS_RETURN). Waits do not spin for long: a rank
// that waits for slow peers leaves the core to others.
class MpiCommunicator final : public HostCommunicator {
 public:
  // Takes ownership of `comm`; MPI_COMM_WORLD and MPI_COMM_SELF are duplicated instead.
  explicit MpiCommunicator(MPI_Comm comm);
  ~MpiCommunicator() override;
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::unique_ptr<PendingSum> start_all_reduce_sum(HostSpan data) override;
  void broadcast(HostSpan data, int root) override;
  void barrier() override;
  void exchange(HostSpan mine, HostSpan theirs, int peer) override;
  void all_to_all(HostSpan mine, const std::vector<std::int64_t>& send, HostSpan theirs,
                  const std::vector<std::int64_t>& receive) override;

  // Ranks of equal `color` form a new communicator, ordered by `key`. Collective.
  std::unique_ptr<MpiCommunicator> split(int color, int key) const;
  // The ranks that share memory with this one (a node). Collective.
  std::unique_ptr<MpiCommunicator> split_by_node() const;
  // The same ranks, for messages of another kind or for another thread, which never meet those of this one. Collective.
  std::unique_ptr<MpiCommunicator> duplicate() const;

  // For parallel HDF5 and for messages.
  MPI_Comm native() const { return comm_; }

 protected:
  void gather_bytes(const void* mine, std::int64_t bytes, void* gathered) override;

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  MPI_Op bf16_sum_ = MPI_OP_NULL;  // MPI knows no bf16
  int rank_ = 0;
  int size_ = 1;
};

// Ends all ranks of the job at once with `code`, from any thread. Does not return.
[[noreturn]] void abort_all_ranks(int code);

// Initializes MPI with MPI_THREAD_MULTIPLE (the coordinator is a thread next to rank 0's worker) and finalizes it.
class MpiRuntime {
 public:
  MpiRuntime(int* argc, char*** argv);
  ~MpiRuntime();
  MpiRuntime(const MpiRuntime&) = delete;
  MpiRuntime& operator=(const MpiRuntime&) = delete;

  MpiCommunicator& world() { return *world_; }

 private:
  std::unique_ptr<MpiCommunicator> world_;
};

}  // namespace roundtable
