// Files through POSIX calls: pread is safe for many threads, and fsync and rename are what durability stands on.
#include "io/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/activity.h"
#include "base/error.h"

namespace roundtable {

namespace {

// Linux moves at most 0x7ffff000 bytes a call.
constexpr std::size_t kMaxCall = std::size_t{1} << 30;

struct Cause {
  ExitCode code;
  const char* mend;
};

Cause cause_of(int number) {
  switch (number) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return {ExitCode::kBadInput, "check the path"};
    case EACCES:
    case EPERM:
    case EROFS:
      return {ExitCode::kBadInput, "check the permissions, or choose another path"};
    case ENOSPC:
    case EDQUOT:
      return {ExitCode::kMachine, "free some space there, or choose another path, and start again"};
    case EFBIG:
      return {ExitCode::kMachine, "raise the limit of a file's size (ulimit -f)"};
    case EMFILE:
    case ENFILE:
      return {ExitCode::kMachine, "raise the limit of open files (ulimit -n)"};
    default:
      return {ExitCode::kMachine, ""};
  }
}

Error file_error(const std::string& path, const char* action, int number) {
  const Cause cause = cause_of(number);
  return make_error(cause.code, path, fmt::format("cannot {}: {}", action, std::strerror(number)), cause.mend);
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string temporary_name(const std::string& path) {
  char host[256] = "";
  if (gethostname(host, sizeof host - 1) != 0) std::strcpy(host, "unknown");
  return fmt::format("{}.tmp-{}-{}", path, host, getpid());
}

// Closes a descriptor and removes the temporary file, unless the write got to its end.
class TemporaryFile {
 public:
  TemporaryFile(const std::string& path, const std::string& final_path) : path_(path), final_path_(final_path) {
    // A left-over of a killed process with our id is overwritten; a link that someone put there is not followed.
    fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) throw file_error(final_path, "be created", errno);
  }
  ~TemporaryFile() {
    if (fd_ >= 0) close(fd_);
    if (!renamed_) unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  int fd() const { return fd_; }

  void sync_and_rename() {
    if (fsync(fd_) != 0) throw file_error(final_path_, "be synced to the disk", errno);
    // Network file systems report a full disk here at the latest.
    if (close(std::exchange(fd_, -1)) != 0) throw file_error(final_path_, "be closed", errno);
    if (rename(path_.c_str(), final_path_.c_str()) != 0) throw file_error(final_path_, "be put in place", errno);
    renamed_ = true;
  }

 private:
  std::string path_;
  std::string final_path_;
  int fd_ = -1;
  bool renamed_ = false;
};

// Makes the rename itself durable.
void sync_folder(const std::string& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw file_error(folder, "be opened", errno);
  const int result = fsync(fd);
  const int number = errno;
  close(fd);
  // Some network file systems know no fsync of a folder; there the rename is durable or nothing is.
  if (result != 0 && number != EINVAL && number != ENOTSUP) throw file_error(folder, "be synced to the disk", number);
}

}  // namespace

InputFile::InputFile(const std::string& path) : path_(path) {
  // O_NONBLOCK: a named pipe is refused below and not waited for. It means nothing to a regular file.
  fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) throw file_error(path, "be opened", errno);
  struct stat status;
  const bool known = fstat(fd_, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    const int number = errno;
    close(fd_);
    if (!known) throw file_error(path, "be read", number);
    throw bad_input(path, S_ISDIR(status.st_mode) ? "is a folder, not a file" : "is not a regular file",
                    "check the path");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

InputFile::~InputFile() {
  if (fd_ >= 0) close(fd_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), size_(other.size_), fd_(std::exchange(other.fd_, -1)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  path_.swap(other.path_);
  std::swap(size_, other.size_);
  std::swap(fd_, other.fd_);
  return *this;
}

void InputFile::read_at(std::uint64_t offset, void* dst, std::size_t bytes) const {
  char* out = static_cast<char*>(dst);
  while (bytes > 0) {
    const ssize_t got = pread(fd_, out, std::min(bytes, kMaxCall), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw file_error(path_, "be read", errno);
    if (got == 0) {
      throw bad_input(path_, fmt::format("ends at byte {}, {} bytes too early", offset, bytes),
                      "it was cut short after it was opened; fetch or write it again");
    }
    note_progress();
    out += got;
    offset += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::size_t>(got);
  }
}

std::string read_text_file(const std::string& path, std::uint64_t max_bytes) {
  const InputFile file(path);
  if (file.size() > max_bytes) {
    throw bad_input(path, fmt::format("holds {} bytes, and at most {} are read", file.size(), max_bytes));
  }
  std::string text(file.size(), '\0');
  file.read_at(0, text.data(), text.size());
  return text;
}

void OutputFile::write(const void* data, std::size_t bytes) {
  const char* in = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t put = ::write(fd_, in, std::min(bytes, kMaxCall));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw file_error(path_, "be written", errno);
    note_progress();
    in += put;
    position_ += static_cast<std::uint64_t>(put);
    bytes -= static_cast<std::size_t>(put);
  }
}

void write_file_atomically(const std::string& path, const std::function<void(OutputFile&)>& writer) {
  {
    TemporaryFile temporary(temporary_name(path), path);
    OutputFile out(temporary.fd(), path);
    writer(out);
    temporary.sync_and_rename();
  }
  sync_folder(folder_of(path));
}

void commit_file(const std::string& temporary, const std::string& path, bool replace) {
  if (!replace && access(path.c_str(), F_OK) == 0) {
    unlink(temporary.c_str());
    return;
  }
  const int fd = open(temporary.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw file_error(path, "be opened", errno);
  const int result = fsync(fd);
  const int number = errno;
  close(fd);
  if (result != 0) throw file_error(path, "be synced to the disk", number);
  if (rename(temporary.c_str(), path.c_str()) != 0) throw file_error(path, "be put in place", errno);
  sync_folder(folder_of(path));
}

}  // namespace roundtable
