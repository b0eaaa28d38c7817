// Bytes of tensors in an unlinked file.
#include "phases/scheme/tensor_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/activity.h"
#include "base/error.h"

namespace roundtable {
namespace {

std::int64_t row_bytes(const TensorFile::Place& place) {
  auto bytes = static_cast<std::int64_t>(c10::elementSize(place.type));
  for (std::size_t i = 1; i < place.shape.size(); ++i) bytes *= place.shape[i];
  return bytes;
}

}  // namespace

TensorFile::TensorFile(const std::string& folder) : folder_(folder) {
  const std::string path = fmt::format("{}/states.tmp-{}-{}", folder, host_name(), getpid());
  fd_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd_.is_open() || ::unlink(path.c_str()) != 0) throw call_error(path, "cannot be made", errno);
}

TensorFile::Place TensorFile::write(const torch::Tensor& tensor) {
  const torch::Tensor host = tensor.detach().to(torch::kCPU).contiguous();
  const Place place{end_, host.sizes().vec(), host.scalar_type()};
  if (const int error = write_whole(fd_.get(), host.const_data_ptr(), host.nbytes())) {
    throw call_error(folder_, "hidden states cannot be written", error);
  }
  end_ += static_cast<std::int64_t>(host.nbytes());
  return place;
}

torch::Tensor TensorFile::read_rows(const Place& place, std::int64_t first, std::int64_t count) const {
  std::vector<std::int64_t> shape = place.shape;
  shape.front() = count;
  torch::Tensor rows = torch::empty(shape, place.type);
  auto* data = static_cast<char*>(rows.mutable_data_ptr());
  const auto bytes = static_cast<std::int64_t>(rows.nbytes());
  const std::int64_t offset = place.offset + first * row_bytes(place);
  for (std::int64_t done = 0; done < bytes;) {
    const auto piece = std::min(static_cast<std::size_t>(bytes - done), kMaxCall);
    const ssize_t got = ::pread(fd_.get(), data + done, piece, offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw call_error(folder_, "hidden states cannot be read back", got < 0 ? errno : EIO);
    done += got;
  }
  return rows;
}

}  // namespace roundtable
