// Boundaries through parallel HDF5: one dataset, of which each rank has a hyperslab.
#include "cache/boundary_file.h"

#include <vector>

#include "base/activity.h"
#include "base/error.h"
#include "base/hash.h"
#include "cache/hdf5_layout.h"
#include "comm/agree.h"
#include "comm/mpi/communicator.h"
#include "io/posix.h"

namespace roundtable {
namespace {

constexpr const char* kStates = "hidden_states";
constexpr const char* kChecksums = "checksums";

Hdf5Handle float_type(ElementType type, const std::string& path) {
  RT_CHECK(type == ElementType::kBF16 || type == ElementType::kF32);
  Hdf5Handle made(H5Tcopy(H5T_IEEE_F32LE), H5Tclose, path, "H5Tcopy");
  if (type == ElementType::kF32) return made;
  // Fields before size: HDF5 refuses a size that cuts the fields it has.
  check_hdf5(H5Tset_fields(made.get(), 15, 7, 8, 0, 7), path, "H5Tset_fields");
  check_hdf5(H5Tset_size(made.get(), 2), path, "H5Tset_size");
  check_hdf5(H5Tset_ebias(made.get(), 127), path, "H5Tset_ebias");
  return made;
}

Hdf5Handle simple_space(const std::vector<hsize_t>& dims, const std::string& path) {
  return {H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), H5Sclose, path, "H5Screate_simple"};
}

void write_text_attribute(hid_t object, const char* name, const std::string& value, const std::string& path) {
  Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose, path, "H5Tcopy");
  check_hdf5(H5Tset_size(type.get(), value.size() + 1), path, "H5Tset_size");
  Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose, path, "H5Screate");
  Hdf5Handle attribute(H5Acreate2(object, name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose, path,
                       "H5Acreate2");
  check_hdf5(H5Awrite(attribute.get(), type.get(), value.c_str()), path, "H5Awrite");
}

std::string read_text_attribute(hid_t object, const char* name, const std::string& path) {
  Hdf5Handle attribute(H5Aopen(object, name, H5P_DEFAULT), H5Aclose, path, "H5Aopen");
  Hdf5Handle type(H5Aget_type(attribute.get()), H5Tclose, path, "H5Aget_type");
  const std::size_t size = H5Tget_size(type.get());
  if (H5Tget_class(type.get()) != H5T_STRING || size == 0 || size > 4096) {
    throw bad_input(path, fmt::format("attribute '{}' is not a short text", name));
  }
  std::string value(size, '\0');
  check_hdf5(H5Aread(attribute.get(), type.get(), value.data()), path, "H5Aread");
  return value.c_str();  // up to the terminating zero
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
  check_hdf5(transfer(dataset, type, memory.get(), file.get()), path, "transfer of hidden states");
  note_progress();
}

std::vector<std::uint64_t> checksums_of(const BoundaryShape& shape, const SampleRange& range, const void* data) {
  std::vector<std::uint64_t> sums;
  const auto bytes = static_cast<std::size_t>(shape.sample_bytes());
  for (std::int64_t i = 0; i < range.size(); ++i) {
    sums.push_back(xxh3_64(static_cast<const char*>(data) + static_cast<std::size_t>(i) * bytes, bytes));
  }
  return sums;
}

std::vector<hsize_t> dims_of(const BoundaryShape& shape) {
  return {static_cast<hsize_t>(shape.n_samples), static_cast<hsize_t>(shape.seqlen),
          static_cast<hsize_t>(shape.hidden)};
}

void check_shape(hid_t states, const BoundaryShape& shape, const std::string& path) {
  Hdf5Handle space(H5Dget_space(states), H5Sclose, path, "H5Dget_space");
  hsize_t dims[3] = {0, 0, 0};
  const bool three = H5Sget_simple_extent_ndims(space.get()) == 3;
  if (three) H5Sget_simple_extent_dims(space.get(), dims, nullptr);
  if (!three || std::vector<hsize_t>(dims, dims + 3) != dims_of(shape)) {
    throw bad_input(path,
                    fmt::format("hidden states are not [{}, {}, {}]", shape.n_samples, shape.seqlen, shape.hidden),
                    "remove this file and run the same command again");
  }
  Hdf5Handle stored(H5Dget_type(states), H5Tclose, path, "H5Dget_type");
  if (H5Tequal(stored.get(), float_type(shape.type, path).get()) <= 0) {
    throw bad_input(path, "hidden states have another element type", "remove this file and run the same command again");
  }
}

}  // namespace

BoundaryWriter::BoundaryWriter(MpiCommunicator& comm, const std::string& path, const BoundaryShape& shape,
                               std::int64_t first_block, const std::string& fingerprint, const FileLayout& layout,
                               const std::string& temporary)
    : comm_(comm), path_(path), temporary_(path + temporary), shape_(shape), layout_(layout) {
  silence_hdf5();
  const WaitsForOthers waits("H5Fcreate");  // and the other collective calls below
  const Hdf5Handle access = parallel_access(comm, layout, shape.sample_bytes(), path);
  Hdf5Handle file(H5Fcreate(temporary_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), H5Fclose, path, "H5Fcreate");

  Hdf5Handle create(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, path, "H5Pcreate");
  std::vector<hsize_t> chunk = dims_of(shape);
  chunk[0] = 1;
  check_hdf5(H5Pset_chunk(create.get(), 3, chunk.data()), path, "H5Pset_chunk");
  // Every sample is written by its rank: filling the file first would write it twice.
  check_hdf5(H5Pset_fill_time(create.get(), H5D_FILL_TIME_NEVER), path, "H5Pset_fill_time");
  Hdf5Handle space = simple_space(dims_of(shape), path);
  Hdf5Handle states(H5Dcreate2(file.get(), kStates, float_type(shape.type, path).get(), space.get(), H5P_DEFAULT,
                               create.get(), H5P_DEFAULT),
                    H5Dclose, path, "H5Dcreate2");
  write_text_attribute(states.get(), "fingerprint", fingerprint, path);
  write_text_attribute(states.get(), "first_block", std::to_string(first_block), path);

  Hdf5Handle sums_space = simple_space({static_cast<hsize_t>(shape.n_samples)}, path);
  Hdf5Handle sums(
      H5Dcreate2(file.get(), kChecksums, H5T_STD_U64LE, sums_space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
      H5Dclose, path, "H5Dcreate2");
  file_ = file.release();
  states_ = states.release();
  checksums_ = sums.release();
}

BoundaryWriter::~BoundaryWriter() {
  // Something is open only if an error came in between: finish() closes all.
  if (checksums_ >= 0) H5Dclose(checksums_);
  if (states_ >= 0) H5Dclose(states_);
  if (file_ >= 0) H5Fclose(file_);
}

void BoundaryWriter::write(const SampleRange& range, const void* data) {
  const std::vector<std::uint64_t> sums = checksums_of(shape_, range, data);
  const Hdf5Handle how = transfer_list(layout_, path_);
  transfer_rows(states_, float_type(shape_.type, path_).get(), range, dims_of(shape_), path_,
                [&](hid_t set, hid_t type, hid_t memory, hid_t file) {
                  return H5Dwrite(set, type, memory, file, how.get(), data);
                });
  transfer_rows(checksums_, H5T_NATIVE_UINT64, range, {static_cast<hsize_t>(shape_.n_samples)}, path_,
                [&](hid_t set, hid_t type, hid_t memory, hid_t file) {
                  return H5Dwrite(set, type, memory, file, how.get(), sums.data());
                });
}

void BoundaryWriter::finish(bool replace) {
  // The file gets its name only after all ranks have agreed that their part is written.
  run_on_all(comm_, [&] {
    const WaitsForOthers waits("H5Fclose");
    check_hdf5(H5Dclose(std::exchange(checksums_, -1)), path_, "H5Dclose");
    check_hdf5(H5Dclose(std::exchange(states_, -1)), path_, "H5Dclose");
    check_hdf5(H5Fclose(std::exchange(file_, -1)), path_, "H5Fclose");
  });
  run_on_root(comm_, [&] { commit_file(temporary_, path_, replace); });
}

void read_boundary(MpiCommunicator& comm, const std::string& path, const BoundaryShape& shape, std::int64_t first_block,
                   const std::string& fingerprint, const SampleRange& range, void* data) {
  silence_hdf5();
  const Hdf5Handle access = parallel_access(comm, {}, 0, path);
  Hdf5Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose, path, "H5Fopen");
  Hdf5Handle states(H5Dopen2(file.get(), kStates, H5P_DEFAULT), H5Dclose, path, "H5Dopen2");
  check_shape(states.get(), shape, path);
  if (read_text_attribute(states.get(), "fingerprint", path) != fingerprint ||
      read_text_attribute(states.get(), "first_block", path) != std::to_string(first_block)) {
    throw bad_input(path, "belongs to another run", "remove this file and run the same command again");
  }
  Hdf5Handle sums(H5Dopen2(file.get(), kChecksums, H5P_DEFAULT), H5Dclose, path, "H5Dopen2");
  std::vector<std::uint64_t> expected(static_cast<std::size_t>(range.size()));
  transfer_rows(states.get(), float_type(shape.type, path).get(), range, dims_of(shape), path,
                [&](hid_t set, hid_t type, hid_t memory, hid_t file_space) {
                  return H5Dread(set, type, memory, file_space, H5P_DEFAULT, data);
                });
  transfer_rows(sums.get(), H5T_NATIVE_UINT64, range, {static_cast<hsize_t>(shape.n_samples)}, path,
                [&](hid_t set, hid_t type, hid_t memory, hid_t file_space) {
                  return H5Dread(set, type, memory, file_space, H5P_DEFAULT, expected.data());
                });
  if (checksums_of(shape, range, data) != expected) {
    throw machine_error(path, fmt::format("samples {} to {} do not match their checksums", range.begin, range.end - 1),
                        "remove this file and run the same command again");
  }
}

}  // namespace roundtable
