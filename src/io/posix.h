// System calls on files: descriptors that close themselves, writes that are whole, and files that get their name only
// once they are on the disk.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

namespace roundtable {

// Owns a file descriptor; closes it on destruction. Movable.
class UniqueFd {
 public:
  explicit UniqueFd(int fd = -1) : fd_(fd) {}
  ~UniqueFd();
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  // -1 where open() failed or the descriptor is closed.
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  // Returns 0, or the errno of close(): network file systems report a full disk here at the latest.
  int close();

 private:
  int fd_;
};

// Linux moves at most 0x7ffff000 bytes per call of read or write; larger pieces are cut to this.
inline constexpr std::size_t kMaxCall = std::size_t{1} << 30;

// Writes all `bytes` bytes at the descriptor's position. Returns 0, or the errno of the call that failed. In that
// case a part of them may be written.
int write_whole(int fd, const void* data, std::size_t bytes);

// Syncs what was written to the disk and closes the descriptor. `path` is the name for errors. Throws Error.
void sync_and_close(UniqueFd& fd, const std::string& path);

// Renames a file that is on the disk to `path`, over what is there, and syncs the folder, so that the name survives a
// loss of power. Both names are in one folder. Throws Error.
void put_in_place(const std::string& temporary, const std::string& path);

// Syncs a closed file to the disk and puts it in place as above. Without `replace`, a file that already exists at
// `path` stays, and the temporary file is removed. Throws Error.
void commit_file(const std::string& temporary, const std::string& path, bool replace);

}  // namespace roundtable
