// Writing, syncing and renaming through POSIX calls.
#include "io/posix.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/error.h"

namespace roundtable {
namespace {

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

void sync_folder(const std::string& folder) {
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.is_open()) throw call_error(folder, "cannot be opened", errno);
  // Some network file systems know no fsync of a folder; there the rename is durable or nothing is.
  if (::fsync(fd.get()) != 0 && errno != EINVAL && errno != ENOTSUP) {
    throw call_error(folder, "cannot be synced to the disk", errno);
  }
}

}  // namespace

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) ::close(fd_);
}

int UniqueFd::close() {
  return ::close(std::exchange(fd_, -1)) == 0 ? 0 : errno;  // closed in either case
}

int write_whole(int fd, const void* data, std::size_t bytes) {
  const char* in = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t put = ::write(fd, in, std::min(bytes, kMaxCall));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return put < 0 ? errno : ENOSPC;
    in += put;
    bytes -= static_cast<std::size_t>(put);
  }
  return 0;
}

void sync_and_close(UniqueFd& fd, const std::string& path) {
  if (::fsync(fd.get()) != 0) throw call_error(path, "cannot be synced to the disk", errno);
  if (const int number = fd.close()) throw call_error(path, "cannot be closed", number);
}

void put_in_place(const std::string& temporary, const std::string& path) {
  if (std::rename(temporary.c_str(), path.c_str()) != 0) throw call_error(path, "cannot be put in place", errno);
  sync_folder(folder_of(path));
}

void commit_file(const std::string& temporary, const std::string& path, bool replace) {
  if (!replace && ::access(path.c_str(), F_OK) == 0) {
    ::unlink(temporary.c_str());
    return;
  }
  UniqueFd fd(::open(temporary.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.is_open()) throw call_error(temporary, "cannot be opened", errno);
  sync_and_close(fd, path);
  put_in_place(temporary, path);
}

}  // namespace roundtable
