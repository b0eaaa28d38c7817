// Files through POSIX calls: pread is safe for many threads.
#include "io/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "base/activity.h"
#include "base/error.h"

namespace roundtable {

namespace {

namespace fs = std::filesystem;

std::string temporary_name(const std::string& path) {
  char host[256] = "";
  if (gethostname(host, sizeof host - 1) != 0) std::strcpy(host, "unknown");
  return fmt::format("{}.tmp-{}-{}", path, host, getpid());
}

// Removes the file, unless finish() was reached.
class TemporaryFile {
 public:
  // Overwrites what a killed process with our id left there; does not follow a link that someone put there.
  TemporaryFile(const std::string& path, const std::string& final_path)
      : path_(path),
        final_path_(final_path),
        fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666)) {
    if (!fd_.is_open()) throw call_error(final_path, "cannot be created", errno);
  }
  ~TemporaryFile() {
    if (!in_place_) ::unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  int fd() const { return fd_.get(); }

  void finish() {
    sync_and_close(fd_, final_path_);
    put_in_place(path_, final_path_);
    in_place_ = true;
  }

 private:
  std::string path_;
  std::string final_path_;
  UniqueFd fd_;
  bool in_place_ = false;
};

// Why `path` cannot be opened. A link to nothing is a file that somebody has lost, not a wrong path.
Error error_of_open(const std::string& path, int number) {
  std::error_code none;
  const fs::path target = number == ENOENT ? fs::read_symlink(path, none) : fs::path();
  if (target.empty()) return call_error(path, "cannot be opened", number);
  return bad_input(path, fmt::format("is a link to {}, where there is no file", target.string()),
                   "fetch the file again (a cache of the Hugging Face hub keeps its files behind such links)");
}

// Source: github.com/git-lfs/git-lfs, docs/spec.md: a pointer is shorter than 1024 bytes and begins with its version.
void refuse_lfs_pointer(const InputFile& file) {
  constexpr std::string_view kPointer = "version https://git-lfs.github.com/spec/";
  if (file.size() < kPointer.size() || file.size() >= 1024) return;
  char start[kPointer.size()];
  file.read_at(0, start, sizeof start);
  if (std::string_view(start, sizeof start) != kPointer) return;
  throw bad_input(file.path(), "is a git-lfs pointer: the file itself was not fetched",
                  "run git lfs pull in its folder, or fetch the model again");
}

}  // namespace

// O_NONBLOCK: open() does not wait on a named pipe, which is refused below. It has no effect on a regular file.
InputFile::InputFile(const std::string& path)
    : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (!fd_.is_open()) throw error_of_open(path, errno);
  struct stat status;
  if (::fstat(fd_.get(), &status) != 0) throw call_error(path, "cannot be read", errno);
  if (!S_ISREG(status.st_mode)) {
    throw bad_input(path, S_ISDIR(status.st_mode) ? "is a folder, not a file" : "is not a regular file",
                    "check the path");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
  refuse_lfs_pointer(*this);
}

bool is_there(const std::string& path) {
  struct stat status;
  if (::lstat(path.c_str(), &status) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  throw call_error(path, "cannot be looked at", errno);
}

void InputFile::read_at(std::uint64_t offset, void* dst, std::size_t bytes) const {
  char* out = static_cast<char*>(dst);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd_.get(), out, std::min(bytes, kMaxCall), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw call_error(path_, "cannot be read", errno);
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
  for (std::size_t piece = 0; bytes > 0; in += piece, bytes -= piece) {
    piece = std::min(bytes, kMaxCall);
    if (const int number = write_whole(fd_, in, piece)) throw call_error(path_, "cannot be written", number);
    note_progress();
    position_ += piece;
  }
}

void write_file_atomically(const std::string& path, const std::function<void(OutputFile&)>& writer) {
  TemporaryFile temporary(temporary_name(path), path);
  OutputFile out(temporary.fd(), path);
  writer(out);
  temporary.finish();
}

}  // namespace roundtable
