#include "tests/standin/nccl/communicator.h"

#include <ATen/ATen.h>

#include <cstring>

#include "tests/standin/device/checks.h"
#include "tests/standin/device/settings.h"

ncclComm::ncclComm(const std::string& with_name, int with_rank, int with_size, int with_device)
    : name(with_name), rank(with_rank), size(with_size), device(with_device),
      mailbox(roundtable::standin::settings().folder + "/" + with_name) {}

namespace roundtable::standin {
namespace {

using Message = std::vector<char>;

at::ScalarType scalar_of(int type) {
  switch (type) {
    case ncclInt8: return at::kChar;
    case ncclUint8: return at::kByte;
    case ncclInt32: return at::kInt;
    case ncclInt64: return at::kLong;
    case ncclFloat16: return at::kHalf;
    case ncclBfloat16: return at::kBFloat16;
    case ncclFloat32: return at::kFloat;
    case ncclFloat64: return at::kDouble;
    default: fault("NCCL: a type that the stand-in does not know");
  }
}

at::Tensor numbers(void* memory, const CollectiveHeader& header) {
  return at::from_blob(memory, {header.count}, scalar_of(header.type));
}

std::string describe(const CollectiveHeader& h) {
  return std::string(h.call) + " of " + std::to_string(h.count) + " elements of type " + std::to_string(h.type);
}

// A collective: every rank puts its part there, then looks for those of the others.
class Collective {
 public:
  Collective(std::shared_ptr<ncclComm> comm, const CollectiveHeader& header)
      : comm_(std::move(comm)), header_(header), number_(comm_->collectives++) {}

  const CollectiveHeader& header() const { return header_; }
  ncclComm& comm() { return *comm_; }

  // Whether all parts are there; parts()[r] is then the one of rank r.
  bool gather(const void* mine, std::size_t bytes) {
    if (parts_.empty()) {
      Message message(sizeof header_ + bytes);
      std::memcpy(message.data(), &header_, sizeof header_);
      if (bytes > 0) std::memcpy(message.data() + sizeof header_, mine, bytes);
      comm_->mailbox.put(file(number_, comm_->rank), message.data(), message.size());
      parts_.resize(static_cast<std::size_t>(comm_->size));
    }
    for (int rank = 0; rank < comm_->size; ++rank) {
      Message& part = parts_[static_cast<std::size_t>(rank)];
      if (!part.empty()) continue;
      std::optional<Message> found = comm_->mailbox.find(file(number_, rank));
      if (!found) return false;
      part = std::move(*found);
      compare(part, rank);
    }
    // Whoever is here has read the parts of the collective before this one.
    if (number_ > 0) comm_->mailbox.remove(file(number_ - 1, comm_->rank));
    return true;
  }

  char* part(int rank) { return parts_[static_cast<std::size_t>(rank)].data() + sizeof header_; }

 private:
  static std::string file(std::int64_t number, int rank) {
    return "collective." + std::to_string(number) + "." + std::to_string(rank);
  }

  void compare(const Message& part, int rank) const {
    CollectiveHeader theirs;
    std::memcpy(&theirs, part.data(), sizeof theirs);
    if (std::memcmp(&theirs, &header_, sizeof theirs) == 0) return;
    fault("ranks call different collectives of NCCL: rank " + std::to_string(comm_->rank) + " " + describe(header_) +
          ", rank " + std::to_string(rank) + " " + describe(theirs));
  }

  std::shared_ptr<ncclComm> comm_;
  CollectiveHeader header_;
  std::int64_t number_;
  std::vector<Message> parts_;
};

}  // namespace

std::size_t size_of(ncclDataType_t type) { return c10::elementSize(scalar_of(type)); }

Work all_reduce(const std::shared_ptr<ncclComm>& comm, const void* from, void* to, const CollectiveHeader& header) {
  auto collective = std::make_shared<Collective>(comm, header);
  const std::size_t bytes = static_cast<std::size_t>(header.count) * size_of(static_cast<ncclDataType_t>(header.type));
  return [collective, from, to, bytes] {
    if (collective->comm().aborted) return true;
    if (!collective->gather(from, bytes)) return false;
    const CollectiveHeader& h = collective->header();
    const at::Tensor total = numbers(collective->part(0), h);
    for (int rank = 1; rank < collective->comm().size; ++rank) {
      const at::Tensor part = numbers(collective->part(rank), h);
      switch (h.detail) {
        case ncclSum: total.add_(part); break;
        case ncclMax: at::maximum_out(const_cast<at::Tensor&>(total), total, part); break;
        case ncclMin: at::minimum_out(const_cast<at::Tensor&>(total), total, part); break;
        default: fault("NCCL: an operation that the stand-in does not know");
      }
    }
    std::memcpy(to, total.data_ptr(), bytes);
    return true;
  };
}

Work all_gather(const std::shared_ptr<ncclComm>& comm, const void* from, void* to, const CollectiveHeader& header) {
  auto collective = std::make_shared<Collective>(comm, header);
  const std::size_t bytes = static_cast<std::size_t>(header.count) * size_of(static_cast<ncclDataType_t>(header.type));
  return [collective, from, to, bytes] {
    if (collective->comm().aborted) return true;
    if (!collective->gather(from, bytes)) return false;
    for (int rank = 0; rank < collective->comm().size; ++rank) {
      std::memcpy(static_cast<char*>(to) + static_cast<std::size_t>(rank) * bytes, collective->part(rank), bytes);
    }
    return true;
  };
}

Work broadcast(const std::shared_ptr<ncclComm>& comm, const void* from, void* to, const CollectiveHeader& header) {
  auto collective = std::make_shared<Collective>(comm, header);
  const std::size_t bytes = static_cast<std::size_t>(header.count) * size_of(static_cast<ncclDataType_t>(header.type));
  return [collective, from, to, bytes] {
    if (collective->comm().aborted) return true;
    const int root = collective->header().detail;
    if (!collective->gather(from, collective->comm().rank == root ? bytes : 0)) return false;
    std::memcpy(to, collective->part(root), bytes);
    return true;
  };
}

Work send_and_receive(const std::shared_ptr<ncclComm>& comm, std::vector<Part> parts) {
  struct Open {
    Part part;
    std::string name;  // of the message
    bool done = false;
  };
  auto open = std::make_shared<std::vector<Open>>();
  for (const Part& part : parts) {
    const int from = part.sends ? comm->rank : part.peer, to = part.sends ? part.peer : comm->rank;
    const std::int64_t number = part.sends ? comm->sent[part.peer]++ : comm->received[part.peer]++;
    const std::string name = std::to_string(from) + "." + std::to_string(to) + "." + std::to_string(number);
    open->push_back({part, "message." + name});
  }
  return [comm, open] {
    if (comm->aborted) return true;
    bool all_done = true;
    for (Open& o : *open) {
      if (o.done || !o.part.sends) continue;
      comm->mailbox.put(o.name, o.part.memory, o.part.bytes);
      ++counts().messages;
      o.done = true;
    }
    for (Open& o : *open) {
      if (o.done) continue;
      const std::optional<std::vector<char>> message = comm->mailbox.find(o.name);
      if (!message) {
        all_done = false;
        continue;
      }
      if (message->size() != o.part.bytes) {
        fault("NCCL: rank " + std::to_string(o.part.peer) + " sends " + std::to_string(message->size()) +
              " bytes where " + std::to_string(o.part.bytes) + " are received");
      }
      std::memcpy(o.part.memory, message->data(), message->size());
      comm->mailbox.remove(o.name);
      o.done = true;
    }
    return all_done;
  };
}

}  // namespace roundtable::standin
