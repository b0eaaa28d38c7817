// Reading, checking and appending journal records.
#include "pipeline/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/error.h"
#include "base/hash.h"
#include "io/file.h"

namespace roundtable {
namespace {

constexpr std::uint32_t kMaxRecord = 64u << 20;
constexpr const char* kDamaged = "the file was damaged; remove the run directory and the output to start anew";
constexpr std::uint64_t kMaxJournal = std::uint64_t{1} << 30;

std::string reason() { return std::strerror(errno); }

struct Head {
  std::uint32_t size;
  std::uint32_t not_size;
  std::uint64_t checksum;
};
constexpr std::size_t kHead = sizeof(Head);
static_assert(kHead == 16, "the file's format");

Head read_head(const char* bytes) {
  Head head;
  std::memcpy(&head, bytes, kHead);
  return head;
}

}  // namespace

Journal::Journal(const std::string& path) : path_(path) {
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) throw machine_error(path, "cannot be opened: " + reason());
  lock();
  read_all();
}

Journal::~Journal() {
  if (fd_ >= 0) ::close(fd_);
}

const nlohmann::json* Journal::last(const std::string& type) const {
  for (auto record = records_.rbegin(); record != records_.rend(); ++record) {
    if ((*record)["type"] == type) return &*record;
  }
  return nullptr;
}

void Journal::lock() {
  // A lock of the kernel's, not a file: a dead job leaves none behind. It belongs to the open file (OFD): one that
  // belongs to the process would go as soon as anything in the process closes this file, read_all() to begin with.
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(fd_, F_OFD_SETLK, &whole) == 0) return;
  if (errno == EACCES || errno == EAGAIN) {
    throw bad_input(path_, "another job is at work in this run directory", "wait for it, or choose another output.path");
  }
  // A file system without locks (some Lustre mounts): go on without one.
}

void Journal::read_all() {
  const std::string bytes = read_text_file(path_, kMaxJournal);
  std::size_t at = 0;
  while (bytes.size() - at >= kHead) {
    const Head head = read_head(bytes.data() + at);
    if (head.size != ~head.not_size || head.size > kMaxRecord) {
      throw bad_input(path_, fmt::format("record at byte {} has a damaged head", at), kDamaged);
    }
    if (bytes.size() - at - kHead < head.size) break;  // torn
    const char* payload = bytes.data() + at + kHead;
    if (xxh3_64(payload, head.size) != head.checksum) {
      throw bad_input(path_, fmt::format("record at byte {} does not match its checksum", at),
                      kDamaged);
    }
    nlohmann::json record = nlohmann::json::parse(payload, payload + head.size, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object() || !record.contains("type") || !record["type"].is_string()) {
      throw bad_input(path_, fmt::format("record at byte {} is not a record of this program", at));
    }
    records_.push_back(std::move(record));
    at += kHead + head.size;
  }
  if (at < bytes.size() && ::ftruncate(fd_, static_cast<off_t>(at)) != 0) {
    throw machine_error(path_, "its torn last record cannot be cut off: " + reason());
  }
  if (::lseek(fd_, static_cast<off_t>(at), SEEK_SET) < 0) throw machine_error(path_, "cannot be positioned: " + reason());
}

void Journal::append(const nlohmann::json& record) {
  const std::string payload = record.dump();
  RT_CHECK(payload.size() <= kMaxRecord && record.contains("type"));
  const auto size = static_cast<std::uint32_t>(payload.size());
  const Head head{size, ~size, xxh3_64(payload.data(), payload.size())};
  std::string bytes(reinterpret_cast<const char*>(&head), kHead);
  bytes += payload;
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(fd_, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw machine_error(path_, "cannot be written: " + reason());
    done += static_cast<std::size_t>(n);
  }
  if (::fsync(fd_) != 0) throw machine_error(path_, "cannot be brought to the disk: " + reason());
  records_.push_back(record);
}

}  // namespace roundtable
