// The world of a test program under mpirun.
#pragma once

#include "comm/mpi/communicator.h"

namespace roundtable::testing {

MpiCommunicator& world();

}  // namespace roundtable::testing
