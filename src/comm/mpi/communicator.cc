// MPI collectives in their non-blocking form, so that every wait is ours: it polls, and after a moment it sleeps.
#include "comm/mpi/communicator.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <vector>

#include "base/activity.h"
#include "base/error.h"
#include "base/simd/bf16_bits.h"
#include "base/stop_signal.h"

namespace roundtable {
namespace {

// MPI counts are int; longer buffers go in pieces of this many elements.
constexpr std::int64_t kPiece = std::int64_t{1} << 28;

MPI_Datatype mpi_type_of(ElementType type) {
  switch (type) {
    case ElementType::kF32:
      return MPI_FLOAT;
    case ElementType::kF64:
      return MPI_DOUBLE;
    case ElementType::kI64:
      return MPI_INT64_T;
    case ElementType::kI8:
      return MPI_INT8_T;
    case ElementType::kBF16:
      return MPI_UINT16_T;
    default:
      RT_UNREACHABLE("element type cannot be summed over MPI");
  }
}

// An MPI_User_function: inout[i] += in[i], bf16 as its bits, each sum rounded to bf16.
void sum_bf16(void* in, void* inout, int* count, MPI_Datatype*) {
  const auto* a = static_cast<const std::uint16_t*>(in);
  auto* b = static_cast<std::uint16_t*>(inout);
  for (int i = 0; i < *count; ++i) store(load(a[i]) + load(b[i]), b[i]);
}

// Polls for a millisecond (a reduction inside a step is shorter), then sleeps between polls: an idle rank must not
// starve the ranks and threads that share its core.
void wait(MPI_Request* requests, int count, const char* call) {
  const WaitsForOthers waits(call);
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  int done = 0;
  while (true) {
    check_mpi(MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE), call);
    if (done) return;
    if (Clock::now() - start > std::chrono::milliseconds(1)) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
}

void wait(MPI_Request* request, const char* call) { wait(request, 1, call); }

// The pieces of one sum. MPI cannot cancel a collective: it still writes to the buffer of one that was given up.
class MpiSum final : public PendingSum {
 public:
  explicit MpiSum(std::vector<MPI_Request> requests) : requests_(std::move(requests)) {}

  bool poll() override {
    int done = 0;
    check_mpi(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE),
              "MPI_Iallreduce");
    return done != 0;
  }

  void wait() override { roundtable::wait(requests_.data(), static_cast<int>(requests_.size()), "MPI_Iallreduce"); }

 private:
  std::vector<MPI_Request> requests_;
};

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw machine_error(call, std::string(text, static_cast<std::size_t>(length)));
}

MpiCommunicator::MpiCommunicator(MPI_Comm comm) : comm_(comm) {
  if (comm == MPI_COMM_WORLD || comm == MPI_COMM_SELF) check_mpi(MPI_Comm_dup(comm, &comm_), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  check_mpi(MPI_Op_create(&sum_bf16, 1, &bf16_sum_), "MPI_Op_create");
}

MpiCommunicator::~MpiCommunicator() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized) return;
  if (bf16_sum_ != MPI_OP_NULL) MPI_Op_free(&bf16_sum_);
  if (comm_ != MPI_COMM_NULL) MPI_Comm_free(&comm_);
}

std::unique_ptr<PendingSum> MpiCommunicator::start_all_reduce_sum(HostSpan data) {
  std::vector<MPI_Request> requests;
  auto* bytes = static_cast<char*>(data.data);
  for (std::int64_t done = 0; size_ > 1 && done < data.count; done += kPiece) {
    const int piece = static_cast<int>(std::min(kPiece, data.count - done));
    check_mpi(MPI_Iallreduce(MPI_IN_PLACE, bytes + done * static_cast<std::int64_t>(size_of(data.type)), piece,
                             mpi_type_of(data.type), data.type == ElementType::kBF16 ? bf16_sum_ : MPI_SUM, comm_,
                             &requests.emplace_back(MPI_REQUEST_NULL)),
              "MPI_Iallreduce");
  }
  return std::make_unique<MpiSum>(std::move(requests));
}

void MpiCommunicator::broadcast(HostSpan data, int root) {
  if (size_ == 1) return;
  for (std::int64_t done = 0; done < data.bytes(); done += kPiece) {
    const int piece = static_cast<int>(std::min(kPiece, data.bytes() - done));
    MPI_Request request;
    check_mpi(MPI_Ibcast(static_cast<char*>(data.data) + done, piece, MPI_BYTE, root, comm_, &request), "MPI_Ibcast");
    wait(&request, "MPI_Ibcast");
  }
}

void MpiCommunicator::barrier() {
  MPI_Request request;
  check_mpi(MPI_Ibarrier(comm_, &request), "MPI_Ibarrier");
  wait(&request, "MPI_Ibarrier");
}

void MpiCommunicator::gather_bytes(const void* mine, std::int64_t bytes, void* gathered) {
  RT_CHECK(bytes < kPiece);
  MPI_Request request;
  check_mpi(MPI_Iallgather(mine, static_cast<int>(bytes), MPI_BYTE, gathered, static_cast<int>(bytes), MPI_BYTE, comm_,
                           &request),
            "MPI_Iallgather");
  wait(&request, "MPI_Iallgather");
}

void MpiCommunicator::exchange(HostSpan mine, HostSpan theirs, int peer) {
  constexpr int kTag = 0;
  RT_CHECK(mine.bytes() == theirs.bytes());
  for (std::int64_t done = 0; done < mine.bytes(); done += kPiece) {
    const int piece = static_cast<int>(std::min(kPiece, mine.bytes() - done));
    const auto at = [&](const HostSpan& span) { return static_cast<char*>(span.data) + done; };
    MPI_Request receive, send;
    check_mpi(MPI_Irecv(at(theirs), piece, MPI_BYTE, peer, kTag, comm_, &receive), "MPI_Irecv");
    check_mpi(MPI_Isend(at(mine), piece, MPI_BYTE, peer, kTag, comm_, &send), "MPI_Isend");
    wait(&receive, "MPI_Irecv");
    wait(&send, "MPI_Isend");
  }
}

// By messages: MPI_Ialltoallv counts in int, and takes its turn among the other collectives.
void MpiCommunicator::all_to_all(HostSpan mine, const std::vector<std::int64_t>& send, HostSpan theirs,
                                 const std::vector<std::int64_t>& receive) {
  constexpr int kTag = 1;
  check_all_to_all(mine, send, theirs, receive, size_);
  const auto element = static_cast<std::int64_t>(size_of(mine.type));
  std::vector<MPI_Request> requests;
  const auto for_pieces = [&](HostSpan span, const std::vector<std::int64_t>& counts, const auto& start) {
    auto* at = static_cast<char*>(span.data);
    for (int rank = 0; rank < size_; ++rank) {
      const std::int64_t bytes = counts[static_cast<std::size_t>(rank)] * element;
      for (std::int64_t done = 0; rank != rank_ && done < bytes; done += kPiece) {
        start(at + done, static_cast<int>(std::min(kPiece, bytes - done)), rank);
      }
      at += bytes;
    }
  };
  for_pieces(theirs, receive, [&](char* at, int bytes, int rank) {
    check_mpi(MPI_Irecv(at, bytes, MPI_BYTE, rank, kTag, comm_, &requests.emplace_back()), "MPI_Irecv");
  });
  for_pieces(mine, send, [&](char* at, int bytes, int rank) {
    check_mpi(MPI_Isend(at, bytes, MPI_BYTE, rank, kTag, comm_, &requests.emplace_back()), "MPI_Isend");
  });
  keep_own_part(mine, send, theirs, receive, rank_);
  wait(requests.data(), static_cast<int>(requests.size()), "the exchange of tokens between ranks");
}

std::unique_ptr<MpiCommunicator> MpiCommunicator::split(int color, int key) const {
  const WaitsForOthers waits("MPI_Comm_split");
  MPI_Comm part;
  check_mpi(MPI_Comm_split(comm_, color, key, &part), "MPI_Comm_split");
  return std::make_unique<MpiCommunicator>(part);
}

std::unique_ptr<MpiCommunicator> MpiCommunicator::split_by_node() const {
  const WaitsForOthers waits("MPI_Comm_split_type");
  MPI_Comm part;
  check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &part), "MPI_Comm_split_type");
  return std::make_unique<MpiCommunicator>(part);
}

std::unique_ptr<MpiCommunicator> MpiCommunicator::duplicate() const {
  const WaitsForOthers waits("MPI_Comm_dup");
  MPI_Comm copy;
  check_mpi(MPI_Comm_dup(comm_, &copy), "MPI_Comm_dup");
  return std::make_unique<MpiCommunicator>(copy);
}

MpiRuntime::MpiRuntime(int* argc, char*** argv) {
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  // Until a communicator of ours exists, errors would go through the fatal default of MPI_COMM_WORLD.
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  if (provided < MPI_THREAD_MULTIPLE) {
    throw machine_error("MPI", "this library does not grant MPI_THREAD_MULTIPLE, which the coordinator thread needs",
                        "use an MPI built with thread support");
  }
  world_ = std::make_unique<MpiCommunicator>(MPI_COMM_WORLD);
}

MpiRuntime::~MpiRuntime() {
  world_.reset();
  MPI_Finalize();
}

void abort_all_ranks(int code) {
  set_stop_notice("");  // the launcher's signal to this rank is no request of the user's
  // MPI may be what hangs: then this process ends without it, and the launcher ends the other ranks.
  try {
    std::thread([code] {
      std::this_thread::sleep_for(std::chrono::seconds(5));
      std::_Exit(code);
    }).detach();
  } catch (const std::system_error&) {  // threads may be what is lacking
  }
  MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace roundtable
