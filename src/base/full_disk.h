// What to tell a user whose disk is full.
#pragma once

#include <cerrno>
#include <cstring>
#include <string_view>

#include "base/error.h"

namespace roundtable {

// The mend of an error with the system's number `number`; empty where it is not of a full disk or quota.
inline const char* mend_of_full_disk(int number) {
  return number == ENOSPC || number == EDQUOT ? "free some space and start the same command again" : "";
}

// The error of a system call that failed with `number`, its errno.
inline Error call_error(std::string_view place, std::string_view problem, int number) {
  return machine_error(place, fmt::format("{}: {}", problem, std::strerror(number)), mend_of_full_disk(number));
}

}  // namespace roundtable
