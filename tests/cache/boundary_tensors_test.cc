// Boundaries of several tensors: of every element type and of other shapes; a file whose tensors are not those that are
// expected, or are damaged, is refused with one line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <vector>

#include "base/error.h"
#include "cache/boundary_file.h"
#include "cache/hdf5_objects.h"
#include "comm/agree.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::world;

using Bytes = std::vector<std::vector<unsigned char>>;

class BoundaryTensors : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = "boundary-tensors-" + std::to_string(getpid()) + ".h5";
    path_ = broadcast_text(world(), (std::filesystem::temp_directory_path() / name).string(), 0);
  }
  void TearDown() override {
    world().barrier();
    if (world().rank() == 0) std::filesystem::remove(path_);
  }

  // Bytes that tell tensors, samples and places apart. Those of a bool are 0 and 1.
  Bytes bytes(const SampleRange& range) const {
    Bytes all;
    for (std::size_t t = 0; t < shape_.tensors.size(); ++t) {
      const BoundaryTensor& tensor = shape_.tensors[t];
      std::vector<unsigned char> data;
      for (std::int64_t i = range.begin * tensor.sample_bytes(); i < range.end * tensor.sample_bytes(); ++i) {
        data.push_back(static_cast<unsigned char>((i + 1) * (37 + 2 * static_cast<std::int64_t>(t))));
        if (tensor.type == ElementType::kBool) data.back() &= 1;
      }
      all.push_back(std::move(data));
    }
    return all;
  }

  void write(const FileLayout& layout = {}) {
    const SampleRange range = part_of(shape_.n_samples, world().size(), world().rank());
    const Bytes data = bytes(range);
    std::vector<const void*> pointers;
    for (const auto& tensor : data) pointers.push_back(tensor.data());
    BoundaryWriter writer(world(), path_, shape_, 4, "print", layout);
    writer.write(range, pointers);
    writer.finish();
  }

  Bytes read(const BoundaryShape& shape, const SampleRange& range) const {
    Bytes data;
    std::vector<void*> pointers;
    for (const BoundaryTensor& tensor : shape.tensors) {
      data.emplace_back(static_cast<std::size_t>(range.size() * tensor.sample_bytes()));
    }
    for (auto& tensor : data) pointers.push_back(tensor.data());
    run_on_all(world(), [&] { read_boundary(world(), path_, shape, 4, "print", range, pointers); });
    return data;
  }

  // The line with which reading as `shape` ends.
  std::string refusal(const BoundaryShape& shape, ExitCode code = ExitCode::kBadInput) const {
    try {
      read(shape, {0, shape.n_samples});
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_THAT(error.what(), HasSubstr(path_));
      EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
      return error.what();
    }
    return "it was read";
  }

  // Rank 0 changes the file, through HDF5 without MPI.
  void change(const std::function<void(hid_t)>& work) {
    world().barrier();
    if (world().rank() == 0) {
      Hdf5Handle file(H5Fopen(path_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT), H5Fclose, path_, "H5Fopen");
      work(file.get());
    }
    world().barrier();
  }

  // Puts an empty dataset of these extents in the place of another.
  void put_dataset(const char* name, hid_t type, const std::vector<hsize_t>& dims) {
    change([&](hid_t file) {
      ASSERT_GE(H5Ldelete(file, name, H5P_DEFAULT), 0);
      const Hdf5Handle create(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, path_, "H5Pcreate");
      ASSERT_GE(H5Pset_chunk(create.get(), static_cast<int>(dims.size()), std::vector<hsize_t>(dims.size(), 1).data()),
                0);
      const Hdf5Handle made(H5Dcreate2(file, name, type, simple_space(dims, path_).get(), H5P_DEFAULT, create.get(),
                                       H5P_DEFAULT),
                            H5Dclose, path_, "H5Dcreate2");
      write_text_attribute(made.get(), "name", "a/b.c", path_);
    });
  }

  BoundaryShape shape_{11, {{"hidden", {2, 4, 3}, ElementType::kBF16}, {"a/b.c", {5}, ElementType::kI32}}};
  std::string path_;
};

TEST_F(BoundaryTensors, OfEveryTypeAndShapeAreReadByAnyPart) {
  const std::string longest(512, '/');
  shape_.tensors = {{"hidden", {2, 4, 3}, ElementType::kBF16}, {"../x", {7}, ElementType::kF64},
                    {"router.state", {3, 2}, ElementType::kF32}, {longest, {1, 1, 2, 1, 2, 1, 1, 1}, ElementType::kF16},
                    {"a number", {}, ElementType::kI64},         {".", {2}, ElementType::kI32},
                    {"i16", {3}, ElementType::kI16},             {"i8", {3}, ElementType::kI8},
                    {"u8", {64}, ElementType::kU8},              {"mask", {5}, ElementType::kBool}};
  EXPECT_EQ(shape_.sample_bytes(), 48 + 56 + 24 + 8 + 8 + 8 + 6 + 3 + 64 + 5);
  for (const bool collective : {false, true}) {
    write({.alignment = 4096, .collective = collective});
    const SampleRange mine{world().rank(), 11};
    EXPECT_EQ(read(shape_, mine), bytes(mine));
  }
}

TEST_F(BoundaryTensors, OtherTensorsThanExpectedAreRefused) {
  write();
  BoundaryShape other = shape_;
  other.tensors.pop_back();
  EXPECT_THAT(refusal(other), HasSubstr("it holds 2 tensors and not 1; remove this file"));
  other = shape_;
  other.tensors.push_back({"more", {1}, ElementType::kU8});
  EXPECT_THAT(refusal(other), HasSubstr("it holds 2 tensors and not 3"));
  other = shape_;
  other.tensors[1].name = "a/b";
  EXPECT_THAT(refusal(other), HasSubstr("tensor 1 is 'a/b.c' and not 'a/b'"));
  for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{6}, {5, 1}, {}}) {
    other = shape_;
    other.tensors[1].shape = shape;
    EXPECT_THAT(refusal(other), HasSubstr("tensor 'a/b.c' is not [11"));
  }
  other = shape_;
  other.n_samples = 12;
  EXPECT_THAT(refusal(other), HasSubstr("tensor 'hidden' is not [12, 2, 4, 3]"));
}

TEST_F(BoundaryTensors, EveryOtherElementTypeIsRefused) {
  const std::vector<ElementType> types = {ElementType::kF64, ElementType::kF32, ElementType::kF16, ElementType::kBF16,
                                          ElementType::kI64, ElementType::kI32, ElementType::kI16, ElementType::kI8,
                                          ElementType::kU8,  ElementType::kBool};
  shape_.tensors.resize(1);
  for (const ElementType type : types) shape_.tensors.push_back({"x", {2}, type});
  write();
  for (std::size_t i = 0; i < types.size(); ++i) {
    BoundaryShape other = shape_;
    other.tensors[i + 1].type = types[(i + 1) % types.size()];
    EXPECT_THAT(refusal(other), HasSubstr("tensor 'x' has another element type")) << i;
    other.tensors[i + 1].type = types[(i + types.size() - 1) % types.size()];
    EXPECT_THAT(refusal(other), HasSubstr("tensor 'x' has another element type")) << i;
  }
}

TEST_F(BoundaryTensors, AFlippedByteOfTheSecondIsFound) {
  write();
  world().barrier();
  if (world().rank() == 0) {
    const Bytes sample = bytes({5, 6});
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    const std::string all((std::istreambuf_iterator<char>(file)), {});
    const std::string sought(sample[1].begin(), sample[1].end());
    const auto at = all.find(sought);
    EXPECT_NE(at, std::string::npos);
    EXPECT_EQ(all.find(sought, at + 1), std::string::npos);  // once
    file.clear();
    file.seekp(static_cast<std::streamoff>(at) + 3);
    file.put(static_cast<char>(sought[3] ^ 0x10));
  }
  world().barrier();
  EXPECT_EQ(read(shape_, {0, 5}), bytes({0, 5}));
  EXPECT_THAT(refusal(shape_, ExitCode::kMachine),
              HasSubstr("samples 0 to 10 of tensor 'a/b.c' do not match their checksums"));
}

TEST_F(BoundaryTensors, AMissingDatasetIsRefused) {
  for (const char* name : {"hidden_states", "checksums", "carried/1/values", "carried/1/checksums"}) {
    write();
    change([&](hid_t file) { ASSERT_GE(H5Ldelete(file, name, H5P_DEFAULT), 0); });
    EXPECT_THAT(refusal(shape_), HasSubstr(std::string("it has no readable dataset '") + name + "'"));
  }
  write();
  change([&](hid_t file) { ASSERT_GE(H5Ldelete(file, "carried", H5P_DEFAULT), 0); });
  EXPECT_THAT(refusal(shape_), HasSubstr("it holds 1 tensors and not 2"));
}

TEST_F(BoundaryTensors, ADatasetOfDeclaredHugeSizeIsRefused) {
  const hsize_t huge = hsize_t{1} << 59;
  write();
  put_dataset("carried/1/values", H5T_STD_I32LE, {huge});
  EXPECT_THAT(refusal(shape_), HasSubstr("tensor 'a/b.c' is not [11, 5]"));
  write();
  put_dataset("carried/1/values", H5T_STD_I32LE, std::vector<hsize_t>(32, 2));
  EXPECT_THAT(refusal(shape_), HasSubstr("tensor 'a/b.c' is not [11, 5]"));
  write();
  put_dataset("carried/1/checksums", H5T_STD_U64LE, {huge});
  EXPECT_THAT(refusal(shape_), HasSubstr("the checksums of tensor 'a/b.c' are not 11 numbers"));
  write();
  put_dataset("carried/1/checksums", H5T_IEEE_F64LE, {11});
  EXPECT_THAT(refusal(shape_), HasSubstr("the checksums of tensor 'a/b.c' are not 11 numbers"));
}

// HDF5 would write past the text, or a pointer into it.
TEST_F(BoundaryTensors, ANameThatIsNoShortTextIsRefused) {
  for (const auto& [size, count] : {std::pair<std::size_t, hsize_t>{6, 9000}, {5000, 1}, {H5T_VARIABLE, 1}}) {
    write();
    change([&, size = size, count = count](hid_t file) {
      const Hdf5Handle values = open_dataset(file, "carried/1/values", path_);
      ASSERT_GE(H5Adelete(values.get(), "name"), 0);
      const Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose, path_, "H5Tcopy");
      ASSERT_GE(H5Tset_size(type.get(), size), 0);
      const Hdf5Handle made(H5Acreate2(values.get(), "name", type.get(),
                                       simple_space({count}, path_).get(), H5P_DEFAULT,
                                       H5P_DEFAULT),
                            H5Aclose, path_, "H5Acreate2");
    });
    EXPECT_THAT(refusal(shape_), HasSubstr("it has no attribute 'name' that is a short text"));
  }
  write();
  change([&](hid_t file) {
    ASSERT_GE(H5Adelete(open_dataset(file, "carried/1/values", path_).get(), "name"), 0);
  });
  EXPECT_THAT(refusal(shape_), HasSubstr("it has no attribute 'name' that is a short text"));
}

}  // namespace
}  // namespace roundtable
