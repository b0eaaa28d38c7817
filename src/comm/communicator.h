// A set of ranks that act together. There are two types, by the memory that they move: a HostCommunicator (MPI) and a
// DeviceCommunicator (NCCL). Each takes spans of its own memory only, so that the wrong memory does not compile. No
// type of MPI, NCCL or LibTorch appears here.
//
// Every call is collective over the communicator's ranks, if it does not say otherwise: all ranks must call it, in the
// same order, with the same count, type and root. Errors of the carrier are thrown as Error (kMachine); comm/agree.h
// says who adds the rank to them.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "base/element_type.h"

namespace roundtable {

enum class Memory { kHost, kDevice };

// `count` elements of `type` that begin at `data`, in the memory of the host or in that of this rank's device. Owns
// nothing. For a tensor use host_span() and device_span() of model/load/tensor_span.h, which check where it is.
template <Memory memory>
struct Span {
  void* data = nullptr;
  std::int64_t count = 0;
  ElementType type = ElementType::kU8;

  std::int64_t bytes() const { return count * static_cast<std::int64_t>(size_of(type)); }
};
using HostSpan = Span<Memory::kHost>;
using DeviceSpan = Span<Memory::kDevice>;

// C++ numbers that can be summed over ranks.
template <class T>
concept Number = std::same_as<T, double> || std::same_as<T, float> || std::same_as<T, std::int64_t>;

template <Number T>
HostSpan host_span(T* values, std::int64_t count) {
  constexpr ElementType type = std::same_as<T, double>  ? ElementType::kF64
                               : std::same_as<T, float> ? ElementType::kF32
                                                        : ElementType::kI64;
  return {values, count, type};
}
template <Number T>
HostSpan host_span(std::vector<T>& values) {
  return host_span(values.data(), std::ssize(values));
}

// C++ objects that travel as their bytes. A pointer or a span would arrive as an address of another process.
template <class T>
concept Plain = std::is_trivially_copyable_v<T> && !std::is_pointer_v<T> && !std::same_as<T, HostSpan> &&
                !std::same_as<T, DeviceSpan>;

// A sum that is on its way: what start_all_reduce_sum() returns. Both calls throw errors of the carrier.
class PendingSum {
 public:
  virtual ~PendingSum() = default;

  // Moves the sum on, without blocking, and returns whether it is done. Cheap. MPI moves data only inside its calls:
  // whoever works in the meantime must call this now and then.
  virtual bool poll() = 0;

  // MPI: blocks until the sum is in memory. NCCL: only enqueues and returns at once; kernels that are launched later on
  // the stream of the communicator see the sum, the host does not.
  virtual void wait() = 0;
};

// Ranks that exchange data in host memory. A call blocks until its result is in memory, if it does not say otherwise.
class HostCommunicator {
 public:
  virtual ~HostCommunicator() = default;

  virtual int rank() const = 0;  // not collective
  virtual int size() const = 0;  // not collective

  // data[i] = sum over ranks of data[i], in place. The type is kF32, kF64, kBF16, kI8 or kI64. Every rank receives the
  // same bits.
  void all_reduce_sum(HostSpan data) { start_all_reduce_sum(data)->wait(); }

  // The same without blocking. `data` must exist and nobody may touch it until the sum is done. Several sums may be on
  // their way, but no other collective may be called before all of them are done.
  virtual std::unique_ptr<PendingSum> start_all_reduce_sum(HostSpan data) = 0;

  // Copies the root's `data` into everybody's.
  virtual void broadcast(HostSpan data, int root) = 0;

  // Returns when all ranks have called it.
  virtual void barrier() = 0;

  // Sends `mine` to rank `peer` and receives `theirs` from it, as many bytes. Collective over the two ranks, which name
  // each other.
  virtual void exchange(HostSpan mine, HostSpan theirs, int peer) = 0;

  // Sends to every rank, this one included, and receives from every rank: rank r gets the send[r] elements of `mine` that
  // begin behind those for the ranks before it, and its receive[r] elements lie in `theirs` behind those of the ranks
  // before it. Each rank's receive[r] is what rank r sends it; both are >= 0, and both spans have one type.
  virtual void all_to_all(HostSpan mine, const std::vector<std::int64_t>& send, HostSpan theirs,
                          const std::vector<std::int64_t>& receive) = 0;

  // The root's value, on every rank.
  template <Plain T>
  T broadcast_value(T value, int root) {
    broadcast({&value, sizeof(T), ElementType::kU8}, root);
    return value;
  }

  // The values of all ranks, in rank order, on every rank.
  template <Plain T>
  std::vector<T> all_gather(const T& mine) {
    std::vector<T> all(static_cast<std::size_t>(size()));
    gather_bytes(&mine, sizeof(T), all.data());
    return all;
  }

  // The sum of all ranks' values, on every rank.
  template <Number T>
  T sum(T mine) {
    all_reduce_sum(host_span(&mine, 1));
    return mine;
  }

 protected:
  // Joins the `bytes` bytes of each rank in rank order into `gathered`, which is size() * bytes long.
  virtual void gather_bytes(const void* mine, std::int64_t bytes, void* gathered) = 0;
};

// Ranks that exchange data in the memory of their devices. No call blocks: each one enqueues its work on the stream
// that the communicator was made with and returns before the work has run. Kernels that are launched later on that
// stream see the result. The host does not see it before it waits for the stream, as a copy to the host does.
class DeviceCommunicator {
 public:
  virtual ~DeviceCommunicator() = default;

  virtual int rank() const = 0;  // not collective
  virtual int size() const = 0;  // not collective

  // As in a HostCommunicator, but the sum is only enqueued.
  void all_reduce_sum(DeviceSpan data) { start_all_reduce_sum(data)->wait(); }

  // Runs the sum at the same time as the kernels that are launched later, until the wait() of what is returned: only kernels that
  // are launched after that see the sum. It begins after all that was enqueued before this call. `data` must exist and
  // no kernel may touch it until then. Several sums may be on their way, but no other collective may be called before
  // all of them are waited for.
  virtual std::unique_ptr<PendingSum> start_all_reduce_sum(DeviceSpan data) = 0;

  // As in a HostCommunicator, but only enqueued.
  virtual void exchange(DeviceSpan mine, DeviceSpan theirs, int peer) = 0;

  // As in a HostCommunicator, but only enqueued.
  virtual void all_to_all(DeviceSpan mine, const std::vector<std::int64_t>& send, DeviceSpan theirs,
                          const std::vector<std::int64_t>& receive) = 0;
};

// For those who implement HostCommunicator::all_to_all(): that the arguments fit together and a group of `size`, and the
// part of rank `rank` itself.
void check_all_to_all(HostSpan mine, const std::vector<std::int64_t>& send, HostSpan theirs,
                      const std::vector<std::int64_t>& receive, int size);
void keep_own_part(HostSpan mine, const std::vector<std::int64_t>& send, HostSpan theirs,
                   const std::vector<std::int64_t>& receive, int rank);

// One rank alone: every collective is the identity. For unit tests, and for a rank that tries something by itself.
class SelfCommunicator final : public HostCommunicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::unique_ptr<PendingSum> start_all_reduce_sum(HostSpan) override;
  void broadcast(HostSpan, int) override {}
  void barrier() override {}
  void exchange(HostSpan mine, HostSpan theirs, int peer) override;
  void all_to_all(HostSpan mine, const std::vector<std::int64_t>& send, HostSpan theirs,
                  const std::vector<std::int64_t>& receive) override;

 protected:
  void gather_bytes(const void* mine, std::int64_t bytes, void* gathered) override;
};

}  // namespace roundtable
