// Files: reads at a position, which many threads may share, and writes that are seen whole or not at all.
//
// Every failure is an Error whose place is the path (call_error in base/error.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "io/posix.h"

namespace roundtable {

// A regular file opened for reading. Movable; closes on destruction. Refused by a line of their own are what only looks
// like a file: a link to nothing, and git-lfs's pointer to a file that was not fetched.
class InputFile {
 public:
  explicit InputFile(const std::string& path);

  const std::string& path() const { return path_; }
  // In bytes, when the file was opened.
  std::uint64_t size() const { return size_; }

  // Fills `dst` with `bytes` bytes from `offset` on, or throws: there are no short reads. Thread-safe.
  void read_at(std::uint64_t offset, void* dst, std::size_t bytes) const;

 private:
  std::string path_;
  std::uint64_t size_ = 0;
  UniqueFd fd_;
};

// Whether a file, a folder or a link is at `path`, be it a link to nothing: whoever opens that is told so. Throws Error
// where a folder above it may not be searched.
bool is_there(const std::string& path);

// The whole content of a file of at most `max_bytes` bytes; a larger one is refused before anything is allocated.
std::string read_text_file(const std::string& path, std::uint64_t max_bytes);

// What write_file_atomically passes to its writer. Unbuffered: write pieces of a sensible size.
class OutputFile {
 public:
  void write(const void* data, std::size_t bytes);
  // Bytes written so far.
  std::uint64_t position() const { return position_; }

  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

 private:
  friend void write_file_atomically(const std::string& path, const std::function<void(OutputFile&)>& writer);
  OutputFile(int fd, const std::string& path) : fd_(fd), path_(path) {}

  int fd_;
  std::string path_;  // the final name, for errors
  std::uint64_t position_ = 0;
};

// Writes a temporary file next to `path` (path + ".tmp-<host>-<pid>"), syncs it to the disk, renames it to `path` and
// syncs the folder. When this returns, the file is on the disk under its name. A kill before that leaves what was there
// before, and at most a temporary file. If `writer` or the disk fails, the temporary file is removed and the exception
// passes through. Two processes may write the same path (the later rename wins); two threads of one process may not.
void write_file_atomically(const std::string& path, const std::function<void(OutputFile&)>& writer);

}  // namespace roundtable
