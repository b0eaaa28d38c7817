// The version comes from CMake's project().
#include "base/version.h"

namespace roundtable {

std::string_view program_version() { return ROUNDTABLE_VERSION; }

}  // namespace roundtable
