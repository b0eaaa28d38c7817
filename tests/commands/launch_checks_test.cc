// How a job was started, from an environment and a file system made by hand.
#include "commands/checks/launch_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "tests/io/throws_error.h"

namespace roundtable {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// The variables of the launcher, and no others.
class Launch : public ::testing::Test {
 protected:
  Launch() { clear(); }
  ~Launch() override { clear(); }

  static void set(const std::map<const char*, const char*>& variables) {
    clear();
    for (const auto& [name, value] : variables) setenv(name, value, 1);
  }

 private:
  static void clear() {
    for (const char* name : {"SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE",
                             "OMPI_MCA_btl", "OMPI_MCA_pml"}) {
      unsetenv(name);
    }
  }
};

TEST_F(Launch, SrunWithoutPmiIsSeen) {
  set({{"SLURM_NTASKS", "4"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "0"}});
  ASSERT_TRUE(fault_of_launch(1).has_value());
  EXPECT_THAT(*fault_of_launch(1), AllOf(HasSubstr("SLURM_NTASKS"), HasSubstr("4 processes"), HasSubstr("--mpi=pmix")));
  EXPECT_TRUE(speaks_for_srun());
  setenv("SLURM_PROCID", "3", 1);
  EXPECT_TRUE(fault_of_launch(1).has_value());
  EXPECT_FALSE(speaks_for_srun());
}

TEST_F(Launch, OtherStartsAreGood) {
  EXPECT_EQ(fault_of_launch(1), std::nullopt);
  set({{"SLURM_NTASKS", "4"}, {"SLURM_STEP_NUM_TASKS", "4"}});
  EXPECT_EQ(fault_of_launch(4), std::nullopt) << "srun with PMI";
  set({{"SLURM_NTASKS", "4"}});
  EXPECT_EQ(fault_of_launch(1), std::nullopt) << "a batch script";
  set({{"SLURM_NTASKS", "4"}, {"SLURM_STEP_NUM_TASKS", "1"}});
  EXPECT_EQ(fault_of_launch(1), std::nullopt) << "srun -n 1";
  set({{"SLURM_NTASKS", "4"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"OMPI_COMM_WORLD_SIZE", "1"}});
  EXPECT_EQ(fault_of_launch(1), std::nullopt) << "mpirun -n 1, whose daemons srun starts";
}

TEST_F(Launch, SharedMemoryIsCounted) {
  EXPECT_NO_THROW(check_shared_memory(1, true, "/proc"));  // a file system without space
  EXPECT_BAD_INPUT(check_shared_memory(2, false, "/proc"),
                   AllOf(HasSubstr(" has 0.0 kB free there, and its 2 ranks need 8.4 MB of shared memory for MPI;"),
                         HasSubstr("--shm-size")));
  EXPECT_BAD_INPUT(check_shared_memory(8, true, "/proc"), HasSubstr("need 110.7 MB of shared memory for MPI and NCCL"));
  EXPECT_NO_THROW(check_shared_memory(2, true, "/tmp"));
  set({{"OMPI_MCA_btl", "tcp,self"}});
  EXPECT_NO_THROW(check_shared_memory(2, false, "/proc"));
}

}  // namespace
}  // namespace roundtable
