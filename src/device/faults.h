// What LibTorch's exceptions about a device mean for a user.
#pragma once

#include <optional>
#include <string_view>

#include "base/error.h"

namespace roundtable {

// Inside a catch: the error, at `place`, that the present exception is to a user if a device is its subject: no memory
// left, a fault of the device, or an operator that has no deterministic way (ask_for_determinism()). Nothing for any
// other exception.
std::optional<Error> error_of_device(std::string_view place);

}  // namespace roundtable
