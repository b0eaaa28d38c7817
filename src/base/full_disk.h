// What to tell a user whose disk is full.
#pragma once

#include <cerrno>

namespace roundtable {

// The mend of an error with the system's number `number`; empty where it is not of a full disk or quota.
inline const char* mend_of_full_disk(int number) {
  return number == ENOSPC || number == EDQUOT ? "free some space and start the same command again" : "";
}

}  // namespace roundtable
