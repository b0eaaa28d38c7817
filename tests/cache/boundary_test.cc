// Boundaries: written by any number of ranks, read by any other cut; damaged files and files of other runs are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "cache/boundary_file.h"
#include "cache/hdf5_layout.h"
#include "comm/agree.h"
#include "tests/mpi_main.h"

namespace roundtable {
namespace {

using testing::world;

class Boundary : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string name = "boundary-" + std::to_string(getpid()) + ".h5";
    path_ = broadcast_text(world(), (std::filesystem::temp_directory_path() / name).string(), 0);
  }
  void TearDown() override {
    world().barrier();
    if (world().rank() == 0) std::filesystem::remove(path_);
  }

  static std::vector<float> values(const SampleRange& range) {
    std::vector<float> data(static_cast<std::size_t>(range.size()) * 6);
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(range.begin * 6) + static_cast<float>(i);
    return data;
  }

  void write() {
    const SampleRange range = part_of(shape_.n_samples, world().size(), world().rank());
    BoundaryWriter writer(world(), path_, shape_, 4, "print");
    writer.write(range, {values(range).data()});
    writer.finish();
  }

  std::vector<float> read(const SampleRange& range, std::int64_t first_block = 4, const std::string& print = "print") {
    std::vector<float> data(static_cast<std::size_t>(range.size()) * 6);
    run_on_all(world(), [&] { read_boundary(world(), path_, shape_, first_block, print, range, {data.data()}); });
    return data;
  }

  BoundaryShape shape_{11, {{"hidden", {2, 3}, ElementType::kF32}}};
  std::string path_;
};

TEST_F(Boundary, EveryRankReadsAnyPart) {
  write();
  const SampleRange mine{world().rank(), 11};
  EXPECT_EQ(read(mine), values(mine));
  EXPECT_FALSE(std::filesystem::exists(path_ + ".tmp"));
}

TEST_F(Boundary, WhatAnotherJobHasPutThereStaysUnlessItIsToBeReplaced) {
  write();
  const SampleRange mine = part_of(shape_.n_samples, world().size(), world().rank());
  std::vector<float> others = values(mine);
  for (float& value : others) ++value;
  for (const bool replace : {false, true}) {
    BoundaryWriter writer(world(), path_, shape_, 4, "print", {}, ".tmp-mine");
    writer.write(mine, {others.data()});
    EXPECT_TRUE(std::filesystem::exists(path_ + ".tmp-mine"));
    writer.finish(replace);
    EXPECT_FALSE(std::filesystem::exists(path_ + ".tmp-mine"));
    EXPECT_EQ(read(mine), replace ? others : values(mine));
  }
}

TEST_F(Boundary, IsLaidOutAsAskedFor) {
  const FileLayout layout{.alignment = 4096, .stripe_count = 4, .stripe_bytes = 1 << 20, .collective = true};
  const int writers = (world().size() + 1) / 2;  // the others have no samples, and take part
  SampleRange range;
  if (world().rank() < writers) range = part_of(shape_.n_samples, writers, world().rank());
  {
    BoundaryWriter writer(world(), path_, shape_, 4, "print", layout);
    writer.write(range, {values(range).data()});
    writer.finish();
  }
  EXPECT_EQ(read({0, 11}), values({0, 11}));
  Hdf5Handle file(H5Fopen(path_.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, path_, "H5Fopen");
  Hdf5Handle states(H5Dopen2(file.get(), "hidden_states", H5P_DEFAULT), H5Dclose, path_, "H5Dopen2");
  for (hsize_t sample = 0; sample < 11; ++sample) {
    const hsize_t at[3] = {sample, 0, 0};
    unsigned filters = 0;
    haddr_t address = 0;
    hsize_t bytes = 0;
    ASSERT_GE(H5Dget_chunk_info_by_coord(states.get(), at, &filters, &address, &bytes), 0);
    EXPECT_EQ(address % 4096, 0u) << sample;
  }
}

TEST_F(Boundary, StripesReachMpiIo) {
  const FileLayout layout{.stripe_count = 4, .stripe_bytes = 1 << 20};
  const Hdf5Handle access = parallel_access(world(), layout, 0, path_);
  MPI_Comm comm;
  MPI_Info info;
  ASSERT_GE(H5Pget_fapl_mpio(access.get(), &comm, &info), 0);
  for (const auto& [name, expected] : {std::pair{"striping_factor", "4"}, {"striping_unit", "1048576"}}) {
    char value[32] = "";
    int found = 0;
    MPI_Info_get(info, name, sizeof(value) - 1, value, &found);
    EXPECT_TRUE(found) << name;
    EXPECT_STREQ(value, expected);
  }
  MPI_Info_free(&info);
  MPI_Comm_free(&comm);
}

TEST_F(Boundary, AnotherRunsIsRefused) {
  write();
  EXPECT_THROW(read({0, 1}, 4, "other"), Error);
  EXPECT_THROW(read({0, 1}, 5), Error);
  shape_.tensors[0].shape[0] = 3;
  EXPECT_THROW(read({0, 1}), Error);
}

TEST_F(Boundary, ADamagedSampleIsFound) {
  write();
  if (world().rank() == 0) {
    // The value 31 (sample 5) is in the file once; flip a bit of it.
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), {});
    const float value = 31;
    const auto at = bytes.find(std::string(reinterpret_cast<const char*>(&value), sizeof(value)));
    ASSERT_NE(at, std::string::npos);
    file.clear();
    file.seekp(static_cast<std::streamoff>(at));
    file.put('\x01');
  }
  world().barrier();
  EXPECT_EQ(read({0, 5}), values({0, 5}));
  EXPECT_THROW(read({0, 11}), Error);
}

TEST_F(Boundary, ATruncatedFileIsRefused) {
  write();
  if (world().rank() == 0) std::filesystem::resize_file(path_, std::filesystem::file_size(path_) / 2);
  world().barrier();
  EXPECT_THROW(read({0, 11}), Error);
}

TEST_F(Boundary, AMissingFileIsOneLine) {
  try {
    read({0, 1});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr(path_));
    EXPECT_THAT(error.what(), ::testing::Not(::testing::HasSubstr("\n")));
  }
}

}  // namespace
}  // namespace roundtable
