// main() of the tests that run under mpirun: MPI around GoogleTest, and one rank's failure is everybody's.
#include "tests/mpi_main.h"

#include <gtest/gtest.h>

namespace roundtable::testing {

MpiCommunicator*& world_pointer() {
  static MpiCommunicator* world = nullptr;
  return world;
}

MpiCommunicator& world() { return *world_pointer(); }

}  // namespace roundtable::testing

int main(int argc, char** argv) {
  roundtable::MpiRuntime mpi(&argc, &argv);
  roundtable::testing::world_pointer() = &mpi.world();
  ::testing::InitGoogleTest(&argc, argv);
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (mpi.world().rank() != 0) delete listeners.Release(listeners.default_result_printer());
  const std::int64_t failed = RUN_ALL_TESTS();
  return mpi.world().sum(failed) == 0 ? 0 : 1;
}
