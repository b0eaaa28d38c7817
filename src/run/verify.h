// Whether the files of a result are what the journal says, read by all ranks together.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"

namespace roundtable {

// A file as a run has written it.
struct FileOnRecord {
  std::string path;
  std::string digest;          // of the whole file (base/hash.h)
  bool may_be_edited = false;  // a text for people, which its reader may change: it only has to exist
};

bool is_intact(const FileOnRecord& file);

// The paths of those of rank 0's `files` that are missing or were changed, on every rank. Each rank reads its share.
// Collective over `comm`. Throws AgreedError for a file that cannot be read, and (kStartAgain) when a rank is asked to
// leave.
std::vector<std::string> damaged_files(HostCommunicator& comm, const std::vector<FileOnRecord>& files);

}  // namespace roundtable
