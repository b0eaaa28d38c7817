// Boundaries through parallel HDF5: a dataset per tensor, of which each rank has a hyperslab.
#include "cache/boundary_file.h"

#include <fmt/ranges.h>

#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "base/activity.h"
#include "base/error.h"
#include "base/hash.h"
#include "cache/hdf5_layout.h"
#include "cache/hdf5_objects.h"
#include "comm/agree.h"
#include "comm/mpi/communicator.h"
#include "io/posix.h"

namespace roundtable {
namespace {

constexpr const char* kCarried = "carried";

std::string values_of(std::size_t tensor) {
  return tensor == 0 ? "hidden_states" : fmt::format("{}/{}/values", kCarried, tensor);
}

std::string checksums_of(std::size_t tensor) {
  return tensor == 0 ? "checksums" : fmt::format("{}/{}/checksums", kCarried, tensor);
}

// Moves rows [range) of `dataset` (of any rank) between the file and the memory that `transfer` knows. An empty range
// takes part in a collective transfer and moves nothing.
template <class Transfer>
void transfer_rows(hid_t dataset, hid_t type, const SampleRange& range, std::vector<hsize_t> dims,
                   const std::string& path, Transfer transfer) {
  std::vector<hsize_t> start(dims.size(), 0);
  start[0] = static_cast<hsize_t>(range.begin);
  dims[0] = static_cast<hsize_t>(range.size());
  Hdf5Handle memory = simple_space(dims, path);
  Hdf5Handle file(H5Dget_space(dataset), H5Sclose, path, "H5Dget_space");
  if (range.size() > 0) {
    check_hdf5(H5Sselect_hyperslab(file.get(), H5S_SELECT_SET, start.data(), nullptr, dims.data(), nullptr), path,
               "H5Sselect_hyperslab");
  } else {
    check_hdf5(H5Sselect_none(file.get()), path, "H5Sselect_none");
  }
  check_hdf5(transfer(dataset, type, memory.get(), file.get()), path, "transfer of samples");
  note_progress();
}

std::vector<std::uint64_t> sums_of_samples(const BoundaryTensor& tensor, const SampleRange& range, const void* data) {
  std::vector<std::uint64_t> sums;
  const auto bytes = static_cast<std::size_t>(tensor.sample_bytes());
  for (std::int64_t i = 0; i < range.size(); ++i) {
    sums.push_back(xxh3_64(static_cast<const char*>(data) + static_cast<std::size_t>(i) * bytes, bytes));
  }
  return sums;
}

std::vector<hsize_t> dims_of(const BoundaryShape& shape, const BoundaryTensor& tensor) {
  std::vector<hsize_t> dims = {static_cast<hsize_t>(shape.n_samples)};
  for (const std::int64_t size : tensor.shape) dims.push_back(static_cast<hsize_t>(size));
  return dims;
}

// Collective. Groups on the way to `name` are made with it.
Hdf5Handle make_dataset(hid_t file, const std::string& name, hid_t type, const std::vector<hsize_t>& dims,
                        const Hdf5Handle& create, const std::string& path) {
  Hdf5Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose, path, "H5Pcreate");
  check_hdf5(H5Pset_create_intermediate_group(links.get(), 1), path, "H5Pset_create_intermediate_group");
  const Hdf5Handle space = simple_space(dims, path);
  return {H5Dcreate2(file, name.c_str(), type, space.get(), links.get(), create.get(), H5P_DEFAULT), H5Dclose, path,
          "H5Dcreate2"};
}

Hdf5Handle make_values(hid_t file, const BoundaryShape& shape, std::size_t tensor, const std::string& path) {
  Hdf5Handle create(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, path, "H5Pcreate");
  const std::vector<hsize_t> dims = dims_of(shape, shape.tensors[tensor]);
  std::vector<hsize_t> chunk = dims;
  chunk[0] = 1;
  check_hdf5(H5Pset_chunk(create.get(), static_cast<int>(chunk.size()), chunk.data()), path, "H5Pset_chunk");
  // Every sample is written by its rank: filling the file first would write it twice.
  check_hdf5(H5Pset_fill_time(create.get(), H5D_FILL_TIME_NEVER), path, "H5Pset_fill_time");
  return make_dataset(file, values_of(tensor), hdf5_type(shape.tensors[tensor].type, path).get(), dims, create, path);
}

Hdf5Handle make_checksums(hid_t file, const BoundaryShape& shape, std::size_t tensor, const std::string& path) {
  const Hdf5Handle create(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, path, "H5Pcreate");
  return make_dataset(file, checksums_of(tensor), H5T_STD_U64LE, {static_cast<hsize_t>(shape.n_samples)}, create, path);
}

// In a file, which a user may have put there.
std::size_t count_tensors(hid_t file, const std::string& path) {
  if (H5Lexists(file, kCarried, H5P_DEFAULT) == 0) return 1;
  H5G_info_t info;
  if (H5Gget_info_by_name(file, kCarried, &info, H5P_DEFAULT) < 0) {
    throw bad_input(path, fmt::format("it has no readable group '{}'", kCarried), kMakeItAgain);
  }
  return 1 + static_cast<std::size_t>(info.nlinks);
}

// A tensor in a file that is open for reading.
struct StoredTensor {
  Hdf5Handle values;
  Hdf5Handle checksums;
};

StoredTensor open_tensor(hid_t file, const BoundaryShape& shape, std::size_t index, const std::string& path) {
  const BoundaryTensor& tensor = shape.tensors[index];
  StoredTensor stored{open_dataset(file, values_of(index), path), open_dataset(file, checksums_of(index), path)};
  if (index > 0) {
    const std::string name = read_text_attribute(stored.values.get(), "name", path);
    if (name != tensor.name) {
      throw bad_input(path, fmt::format("tensor {} is '{}' and not '{}'", index, name, tensor.name), kMakeItAgain);
    }
  }
  const std::vector<hsize_t> dims = dims_of(shape, tensor);
  if (!has_dims(stored.values.get(), dims, path)) {
    throw bad_input(path, fmt::format("tensor '{}' is not [{}]", tensor.name, fmt::join(dims, ", ")), kMakeItAgain);
  }
  if (!has_type(stored.values.get(), hdf5_type(tensor.type, path).get(), path)) {
    throw bad_input(path, fmt::format("tensor '{}' has another element type", tensor.name), kMakeItAgain);
  }
  if (!has_dims(stored.checksums.get(), {dims[0]}, path) || !has_type(stored.checksums.get(), H5T_STD_U64LE, path)) {
    throw bad_input(path, fmt::format("the checksums of tensor '{}' are not {} numbers", tensor.name, dims[0]),
                    kMakeItAgain);
  }
  return stored;
}

void read_tensor(const StoredTensor& stored, const BoundaryShape& shape, const BoundaryTensor& tensor,
                 const SampleRange& range, void* data, const std::string& path) {
  std::vector<std::uint64_t> expected(static_cast<std::size_t>(range.size()));
  transfer_rows(stored.values.get(), hdf5_type(tensor.type, path).get(), range, dims_of(shape, tensor), path,
                [&](hid_t set, hid_t type, hid_t memory, hid_t file_space) {
                  return H5Dread(set, type, memory, file_space, H5P_DEFAULT, data);
                });
  transfer_rows(stored.checksums.get(), H5T_NATIVE_UINT64, range, {static_cast<hsize_t>(shape.n_samples)}, path,
                [&](hid_t set, hid_t type, hid_t memory, hid_t file_space) {
                  return H5Dread(set, type, memory, file_space, H5P_DEFAULT, expected.data());
                });
  if (sums_of_samples(tensor, range, data) != expected) {
    throw machine_error(path,
                        fmt::format("samples {} to {} of tensor '{}' do not match their checksums", range.begin,
                                    range.end - 1, tensor.name),
                        kMakeItAgain);
  }
}

}  // namespace

std::int64_t BoundaryTensor::sample_bytes() const {
  return std::accumulate(shape.begin(), shape.end(), static_cast<std::int64_t>(size_of(type)), std::multiplies<>());
}

std::int64_t BoundaryShape::sample_bytes() const {
  std::int64_t bytes = 0;
  for (const BoundaryTensor& tensor : tensors) bytes += tensor.sample_bytes();
  return bytes;
}

BoundaryWriter::BoundaryWriter(MpiCommunicator& comm, const std::string& path, const BoundaryShape& shape,
                               std::int64_t first_block, const std::string& fingerprint, const FileLayout& layout,
                               const std::string& temporary)
    : comm_(comm), path_(path), temporary_(path + temporary), shape_(shape), layout_(layout) {
  RT_CHECK(!shape.tensors.empty());
  silence_hdf5();
  const WaitsForOthers waits("H5Fcreate");  // and the other collective calls below
  // Samples that are smaller than the hidden states are not aligned: they would take more space than they have bytes.
  const Hdf5Handle access = parallel_access(comm, layout, shape.tensors.front().sample_bytes(), path);
  Hdf5Handle file(H5Fcreate(temporary_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), H5Fclose, path, "H5Fcreate");
  std::vector<Hdf5Handle> made;
  for (std::size_t i = 0; i < shape.tensors.size(); ++i) {
    const hid_t values = made.emplace_back(make_values(file.get(), shape, i, path)).get();
    if (i == 0) {
      write_text_attribute(values, "fingerprint", fingerprint, path);
      write_text_attribute(values, "first_block", std::to_string(first_block), path);
    } else {
      write_text_attribute(values, "name", shape.tensors[i].name, path);
    }
    made.push_back(make_checksums(file.get(), shape, i, path));
  }
  for (std::size_t i = 0; i < made.size(); i += 2) datasets_.push_back({made[i].release(), made[i + 1].release()});
  file_ = file.release();
}

BoundaryWriter::~BoundaryWriter() {
  // Something is open only if an error came in between: finish() closes all.
  for (const Datasets& tensor : datasets_) {
    if (tensor.checksums >= 0) H5Dclose(tensor.checksums);
    if (tensor.values >= 0) H5Dclose(tensor.values);
  }
  if (file_ >= 0) H5Fclose(file_);
}

void BoundaryWriter::write(const SampleRange& range, const std::vector<const void*>& data) {
  RT_CHECK(data.size() == shape_.tensors.size());
  const Hdf5Handle how = transfer_list(layout_, path_);
  for (std::size_t i = 0; i < data.size(); ++i) {
    const BoundaryTensor& tensor = shape_.tensors[i];
    const std::vector<std::uint64_t> sums = sums_of_samples(tensor, range, data[i]);
    transfer_rows(datasets_[i].values, hdf5_type(tensor.type, path_).get(), range, dims_of(shape_, tensor), path_,
                  [&](hid_t set, hid_t type, hid_t memory, hid_t file) {
                    return H5Dwrite(set, type, memory, file, how.get(), data[i]);
                  });
    transfer_rows(datasets_[i].checksums, H5T_NATIVE_UINT64, range, {static_cast<hsize_t>(shape_.n_samples)}, path_,
                  [&](hid_t set, hid_t type, hid_t memory, hid_t file) {
                    return H5Dwrite(set, type, memory, file, how.get(), sums.data());
                  });
  }
}

void BoundaryWriter::finish(bool replace) {
  // The file gets its name only after all ranks have agreed that their part is written.
  run_on_all(comm_, [&] {
    const WaitsForOthers waits("H5Fclose");
    for (Datasets& tensor : datasets_) {
      check_hdf5(H5Dclose(std::exchange(tensor.checksums, -1)), path_, "H5Dclose");
      check_hdf5(H5Dclose(std::exchange(tensor.values, -1)), path_, "H5Dclose");
    }
    check_hdf5(H5Fclose(std::exchange(file_, -1)), path_, "H5Fclose");
  });
  run_on_root(comm_, [&] { commit_file(temporary_, path_, replace); });
}

void read_boundary(MpiCommunicator& comm, const std::string& path, const BoundaryShape& shape, std::int64_t first_block,
                   const std::string& fingerprint, const SampleRange& range, const std::vector<void*>& data) {
  RT_CHECK(!data.empty() && data.size() == shape.tensors.size());
  silence_hdf5();
  const Hdf5Handle access = parallel_access(comm, {}, 0, path);
  Hdf5Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose, path, "H5Fopen");
  if (const std::size_t count = count_tensors(file.get(), path); count != data.size()) {
    throw bad_input(path, fmt::format("it holds {} tensors and not {}", count, data.size()), kMakeItAgain);
  }
  std::vector<StoredTensor> stored;
  for (std::size_t i = 0; i < data.size(); ++i) stored.push_back(open_tensor(file.get(), shape, i, path));
  const hid_t hidden = stored.front().values.get();
  if (read_text_attribute(hidden, "fingerprint", path) != fingerprint ||
      read_text_attribute(hidden, "first_block", path) != std::to_string(first_block)) {
    throw bad_input(path, "belongs to another run", kMakeItAgain);
  }
  for (std::size_t i = 0; i < data.size(); ++i) read_tensor(stored[i], shape, shape.tensors[i], range, data[i], path);
}

}  // namespace roundtable
