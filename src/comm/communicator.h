// A set of ranks that act together. No MPI or NCCL type appears here: the rest of the program is handed a
// Communicator and never asks what carries it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/element_type.h"

namespace roundtable {

// A sum that is on its way: what Communicator::start_all_reduce_sum returns. Errors of the carrier are thrown as Error
// (kMachine) by either call.
class PendingSum {
 public:
  virtual ~PendingSum() = default;

  // Moves it on and returns whether it is done. Cheap: MPI moves data only inside its calls, so that whoever works
  // meanwhile is to call this now and then.
  virtual bool poll() = 0;

  // Returns when the sum is where the caller's next work finds it: in host memory, or in device memory for the kernels
  // that are enqueued after this.
  virtual void wait() = 0;
};

// Every call below is collective over the communicator's ranks: all must call it, in the same order, with the same
// count, type and root. Errors of the carrier are thrown as Error (kMachine) and name the rank.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // data[i] = sum over ranks of data[i], in place. `type` is kF32, kF64, kBF16, kI8 or kI64.
  // Every rank receives the same bits.
  void all_reduce_sum(void* data, std::int64_t count, ElementType type) { start_all_reduce_sum(data, count, type)->wait(); }

  // The same without waiting: `data` must stand, untouched, until the sum is done. Several may be on their way, but no
  // other collective is called before they are waited for.
  virtual std::unique_ptr<PendingSum> start_all_reduce_sum(void* data, std::int64_t count, ElementType type) = 0;

  // Copies `bytes` bytes from the root's `data` to everybody's.
  virtual void broadcast(void* data, std::int64_t bytes, int root) = 0;

  // Returns when all ranks have called it.
  virtual void barrier() = 0;

  // Joins each rank's `bytes` bytes in rank order into `gathered` (size() * bytes long, on every rank).
  virtual void all_gather(const void* mine, std::int64_t bytes, void* gathered) = 0;

  // Sends `bytes` bytes to rank `peer` and receives as many from it into `theirs`. Collective over the two, which name
  // each other.
  virtual void exchange(const void* mine, void* theirs, std::int64_t bytes, int peer) = 0;
};

// One rank alone: every collective is the identity. For unit tests and single-process tools.
class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::unique_ptr<PendingSum> start_all_reduce_sum(void*, std::int64_t, ElementType) override;
  void broadcast(void*, std::int64_t, int) override {}
  void barrier() override {}
  void all_gather(const void* mine, std::int64_t bytes, void* gathered) override;
  void exchange(const void* mine, void* theirs, std::int64_t bytes, int peer) override;
};

// The following work over host memory and are collective over `comm`.

// The root's text on every rank.
std::string broadcast_text(Communicator& comm, std::string text, int root);

// Every rank's text, in rank order, on every rank.
std::vector<std::string> all_gather_text(Communicator& comm, const std::string& text);

// Runs `work` on the root alone and gives its text to all. Where it throws an Error there, an AgreedError is thrown
// on every rank with the same code and line, so that all can leave in order.
std::string run_on_root(Communicator& comm, const std::function<std::string()>& work);

// As run_on_root, for work that every rank does on its own part: where some throw, all throw the error of the lowest
// such rank.
void run_on_all(Communicator& comm, const std::function<void()>& work);

}  // namespace roundtable
