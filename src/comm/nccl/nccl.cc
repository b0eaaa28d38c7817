// NCCL's collectives. tests/comm/nccl_test.cc (label gpu) runs them on machines that have a GPU.
#include "comm/nccl/nccl.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <exception>
#include <optional>

#include "base/error.h"
#include "comm/link_check.h"

namespace roundtable {
namespace {

void check_nccl(ncclResult_t result, const char* call) {
  // ncclInProgress is not an error: a non-blocking communicator answers so while it works.
  if (result == ncclSuccess || result == ncclInProgress) return;
  throw machine_error(call, fmt::format("{} ({})", ncclGetErrorString(result), ncclGetLastError(nullptr)));
}

void check_cuda(cudaError_t result, const char* call) {
  if (result != cudaSuccess) throw machine_error(call, cudaGetErrorString(result));
}

ncclDataType_t nccl_type_of(ElementType type) {
  switch (type) {
    case ElementType::kF32:
      return ncclFloat32;
    case ElementType::kF64:
      return ncclFloat64;
    case ElementType::kBF16:
      return ncclBfloat16;
    case ElementType::kI8:
      return ncclInt8;
    case ElementType::kI64:
      return ncclInt64;
    default:
      RT_UNREACHABLE("element type cannot be summed over NCCL");
  }
}

// A point in a stream that another stream can wait for.
class Event {
 public:
  Event() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) { check_cuda(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  void hold_back(cudaStream_t stream) const {
    check_cuda(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
  }
  bool passed() const {
    const cudaError_t state = cudaEventQuery(event_);
    if (state == cudaErrorNotReady) return false;
    check_cuda(state, "cudaEventQuery");
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// A sum on the communicator's own stream: kernels that are launched in the meantime run at the same time.
class NcclSum final : public PendingSum {
 public:
  explicit NcclSum(cudaStream_t compute) : compute_(compute) {}

  bool poll() override { return done_.passed(); }
  void wait() override { done_.hold_back(compute_); }

  // The sum was enqueued on `stream`.
  void enqueued(cudaStream_t stream) { done_.record(stream); }

 private:
  cudaStream_t compute_;
  Event done_;
};

class NcclCommunicator final : public DeviceCommunicator {
 public:
  NcclCommunicator(HostCommunicator& host, const Stream& stream)
      : rank_(host.rank()), size_(host.size()), stream_(stream.handle()) {
    check_cuda(cudaSetDevice(stream.device()), "cudaSetDevice");
    check_cuda(cudaStreamCreateWithFlags(&sums_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    ncclUniqueId id{};
    if (rank_ == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    check_nccl(ncclCommInitRank(&comm_, size_, host.broadcast_value(id, 0), rank_), "ncclCommInitRank");
    link_.emplace([comm = comm_] { return fault_of(comm); });
  }

  // To destroy a communicator waits for the sums that are under way, in which the other ranks may never take part.
  ~NcclCommunicator() override {
    link_.reset();
    if (comm_ != nullptr) std::uncaught_exceptions() > exceptions_ ? ncclCommAbort(comm_) : ncclCommDestroy(comm_);
    if (sums_ != nullptr) cudaStreamDestroy(sums_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  std::unique_ptr<PendingSum> start_all_reduce_sum(DeviceSpan data) override {
    Event produced;  // what is summed comes from kernels on the compute stream
    produced.record(stream_);
    produced.hold_back(sums_);
    auto sum = std::make_unique<NcclSum>(stream_);
    check_nccl(ncclAllReduce(data.data, data.data, static_cast<std::size_t>(data.count), nccl_type_of(data.type),
                             ncclSum, comm_, sums_),
               "ncclAllReduce");
    sum->enqueued(sums_);
    poll();
    return sum;
  }

  void exchange(DeviceSpan mine, DeviceSpan theirs, int peer) override {
    RT_CHECK(mine.bytes() == theirs.bytes());
    const auto bytes = static_cast<std::size_t>(mine.bytes());
    check_nccl(ncclGroupStart(), "ncclGroupStart");
    check_nccl(ncclSend(mine.data, bytes, ncclInt8, peer, comm_, stream_), "ncclSend");
    check_nccl(ncclRecv(theirs.data, bytes, ncclInt8, peer, comm_, stream_), "ncclRecv");
    check_nccl(ncclGroupEnd(), "ncclGroupEnd");
    poll();
  }

  void all_to_all(DeviceSpan mine, const std::vector<std::int64_t>& send, DeviceSpan theirs,
                  const std::vector<std::int64_t>& receive) override {
    RT_CHECK(std::ssize(send) == size_ && std::ssize(receive) == size_ && mine.type == theirs.type);
    const std::size_t element = size_of(mine.type);
    auto* from = static_cast<char*>(mine.data);
    auto* to = static_cast<char*>(theirs.data);
    check_nccl(ncclGroupStart(), "ncclGroupStart");
    for (int rank = 0; rank < size_; ++rank) {
      const std::size_t out = static_cast<std::size_t>(send[static_cast<std::size_t>(rank)]) * element;
      const std::size_t in = static_cast<std::size_t>(receive[static_cast<std::size_t>(rank)]) * element;
      if (out > 0) check_nccl(ncclSend(from, out, ncclInt8, rank, comm_, stream_), "ncclSend");
      if (in > 0) check_nccl(ncclRecv(to, in, ncclInt8, rank, comm_, stream_), "ncclRecv");
      from += out;
      to += in;
    }
    check_nccl(ncclGroupEnd(), "ncclGroupEnd");
    poll();
  }

 private:
  // A peer that died or a broken link shows as an asynchronous error, not as the result of a call.
  static std::optional<std::string> fault_of(ncclComm_t comm) {
    ncclResult_t state = ncclSuccess;
    check_nccl(ncclCommGetAsyncError(comm, &state), "ncclCommGetAsyncError");
    if (state == ncclSuccess || state == ncclInProgress) return std::nullopt;
    return fmt::format("NCCL lost another rank or a link: {} ({})", ncclGetErrorString(state), ncclGetLastError(nullptr));
  }
  void poll() const {
    if (const auto fault = fault_of(comm_)) throw Error(ExitCode::kMachine, *fault);
  }

  int exceptions_ = std::uncaught_exceptions();
  int rank_;
  int size_;
  cudaStream_t stream_;          // LibTorch's
  cudaStream_t sums_ = nullptr;  // ours: sums overlap what LibTorch computes
  ncclComm_t comm_ = nullptr;
  std::optional<LinkCheck> link_;
};

}  // namespace

bool nccl_available() { return true; }

std::string nccl_version() {
  int version = 0;  // 22907: NCCL_VERSION_CODE of nccl.h
  check_nccl(ncclGetVersion(&version), "ncclGetVersion");
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

std::unique_ptr<DeviceCommunicator> make_nccl_communicator(HostCommunicator& host, const Stream& stream) {
  return std::make_unique<NcclCommunicator>(host, stream);
}

}  // namespace roundtable
