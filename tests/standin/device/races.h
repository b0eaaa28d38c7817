// Who last wrote and who read each byte of the devices' memory, to find work that does not wait for other work on the
// same bytes. Found in every run, in whatever order the work happens to be done.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tests/standin/device/clock.h"

namespace roundtable::standin {

struct Access {
  const void* begin;
  std::size_t bytes;
  bool writes;
};

// The work `moment`, before which all of `before` is done, reads and writes this memory. Ends the process with `what`
// where it may run at the same time as other work on it.
void check_accesses(const std::vector<Access>& accesses, const Clock& before, const Moment& moment,
                    const std::string& what);

void forget_accesses(const void* begin, std::size_t bytes);  // the memory was given back

}  // namespace roundtable::standin
