// Reading, checking and appending journal records.
#include "rundir/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "io/file.h"
#include "io/posix.h"

namespace roundtable {
namespace {

constexpr std::uint32_t kMaxRecord = 64u << 20;
constexpr const char* kDamaged =
    "the file was damaged; remove the run directory and the output, and start the run again";
constexpr const char* kForeignOrDamaged =
    "if this is a file of your own, choose another run.directory; if it was a run's, it was damaged: remove the run "
    "directory and the output, and start the run again";
constexpr std::uint64_t kMaxJournal = std::uint64_t{1} << 30;

struct Head {
  std::uint32_t size;
  std::uint32_t not_size;
  std::uint64_t checksum;
};
constexpr std::size_t kHead = sizeof(Head);
static_assert(kHead == 16, "the file's format");

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

struct flock whole_file(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

Head read_head(const char* bytes) {
  Head head;
  std::memcpy(&head, bytes, kHead);
  return head;
}

// Without a whole record, `bytes` may be a first record that a dead job has torn, or a file of somebody else, of which
// nothing may be cut off. The two sizes tell them apart.
void refuse_foreign_start(const std::string& path, const std::string& bytes) {
  std::uint32_t sizes[2] = {};
  if (bytes.empty()) return;
  if (bytes.size() >= sizeof sizes) {
    std::memcpy(sizes, bytes.data(), sizeof sizes);
    if (sizes[0] == ~sizes[1]) return;
  }
  throw bad_input(path, "is not a journal of this program", "choose another run directory, or remove the file");
}

}  // namespace

JournalContent read_journal(const std::string& path) {
  JournalContent content;
  const std::string bytes = read_text_file(path, kMaxJournal);
  std::size_t& at = content.bytes;
  nlohmann::json version;  // of the program that wrote the first record
  while (bytes.size() - at >= kHead) {
    const Head head = read_head(bytes.data() + at);
    if (head.size != ~head.not_size || head.size > kMaxRecord) {
      if (at == 0) throw bad_input(path, "record at byte 0 has a damaged head", kForeignOrDamaged);
      throw bad_input(path, fmt::format("record at byte {} has a damaged head", at), kDamaged);
    }
    if (bytes.size() - at - kHead < head.size) break;  // torn
    const char* payload = bytes.data() + at + kHead;
    if (xxh3_64(payload, head.size) != head.checksum) {
      throw bad_input(path, fmt::format("record at byte {} does not match its checksum", at), kDamaged);
    }
    const auto object = nlohmann::json::parse(payload, payload + head.size, nullptr, /*allow_exceptions=*/false);
    if (content.records.empty() && object.is_object()) version = object.value("version", nlohmann::json());
    content.records.push_back(record_from_json(object, version.is_string() ? version.get<std::string>() : "",
                                               fmt::format("{}: record at byte {}", path, at)));
    at += kHead + head.size;
  }
  if (content.records.empty()) refuse_foreign_start(path, bytes);
  return content;
}

bool journal_is_held(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct flock probe = whole_file(F_RDLCK);
  return fd.is_open() && ::fcntl(fd.get(), F_OFD_GETLK, &probe) == 0 && probe.l_type != F_UNLCK;
}

Journal::Journal(const std::string& path) : path_(path), fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  if (!fd_.is_open()) throw call_error(path, "cannot be opened", errno);
  lock();
  JournalContent content = read_journal(path);
  records_ = std::move(content.records);
  cut_torn_tail(content.bytes);
}

void Journal::lock() {
  // A lock of the kernel, not a file: a dead job leaves none behind. It belongs to the open file (OFD). A lock that
  // belongs to the process would end as soon as anything in the process closes this file, as read_journal() does.
  struct flock whole = whole_file(F_WRLCK);
  locked_ = ::fcntl(fd_.get(), F_OFD_SETLK, &whole) == 0;
  if (locked_) return;
  if (errno == EACCES || errno == EAGAIN) {
    throw bad_input(path_, "another job is at work in this run directory",
                    "wait for it, or choose another output.path");
  }
  // A file system without locks (some Lustre mounts).
  at_work_ = std::make_unique<AtWork>(folder_of(path_), "wait for it, or choose another output.path");
}

void Journal::cut_torn_tail(std::size_t whole) {
  const auto end = static_cast<off_t>(whole);
  if (::ftruncate(fd_.get(), end) != 0) throw call_error(path_, "its torn last record cannot be cut off", errno);
  if (::lseek(fd_.get(), end, SEEK_SET) < 0) throw call_error(path_, "cannot be positioned", errno);
}

void Journal::append(const Record& record) {
  const std::string payload = to_json(record).dump();
  RT_CHECK(payload.size() <= kMaxRecord);
  const auto size = static_cast<std::uint32_t>(payload.size());
  const Head head{size, ~size, xxh3_64(payload.data(), payload.size())};
  std::string bytes(reinterpret_cast<const char*>(&head), kHead);
  bytes += payload;
  const off_t before = ::lseek(fd_.get(), 0, SEEK_CUR);
  if (const int number = write_whole(fd_.get(), bytes.data(), bytes.size())) {
    // So that a first record leaves nothing that cannot be told from somebody else's file.
    if (before >= 0 && ::ftruncate(fd_.get(), before) == 0) ::lseek(fd_.get(), before, SEEK_SET);
    throw call_error(path_, "cannot be written", number);
  }
  if (::fsync(fd_.get()) != 0) throw call_error(path_, "cannot be synced to the disk", errno);
  records_.push_back(record);
}

}  // namespace roundtable
