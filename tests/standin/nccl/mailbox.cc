#include "tests/standin/nccl/mailbox.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <utility>

#include "tests/standin/device/checks.h"

namespace roundtable::standin {

Mailbox::Mailbox(std::string folder) : folder_(std::move(folder)) {
  std::error_code there_already;
  std::filesystem::create_directories(folder_, there_already);
}

void Mailbox::put(const std::string& name, const void* data, std::size_t bytes) {
  const std::string half = path(name) + ".half";
  const int file = ::open(half.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
  if (file < 0) fault("cannot write a message of NCCL: " + half);
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t written = ::write(file, static_cast<const char*>(data) + done, bytes - done);
    if (written <= 0) fault("no room for a message of NCCL: " + half);
    done += static_cast<std::size_t>(written);
  }
  ::close(file);
  ::rename(half.c_str(), path(name).c_str());
}

std::optional<std::vector<char>> Mailbox::find(const std::string& name) const {
  const int file = ::open(path(name).c_str(), O_RDONLY);
  if (file < 0) return std::nullopt;
  struct stat information {};
  fstat(file, &information);
  std::vector<char> data(static_cast<std::size_t>(information.st_size));
  for (std::size_t done = 0; done < data.size();) {
    const ssize_t read_now = ::read(file, data.data() + done, data.size() - done);
    if (read_now <= 0) fault("cannot read a message of NCCL: " + path(name));
    done += static_cast<std::size_t>(read_now);
  }
  ::close(file);
  return data;
}

void Mailbox::remove(const std::string& name) { ::unlink(path(name).c_str()); }

void Mailbox::remove_all() {
  std::error_code gone_already;
  std::filesystem::remove_all(folder_, gone_already);
}

}  // namespace roundtable::standin
