// One checkpoint format made from another: the same integers, scales and zero points, without tuning.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "comm/communicator.h"
#include "export/format.h"

namespace roundtable {

struct Conversion {
  std::string source;  // a quantized model directory, in a format that holds integers
  const CheckpointFormat* format = nullptr;
  Model model;  // of the source; its graphs may be of any size
  std::string output;  // directory
  std::string record;  // directory for the journal, which tells our output from somebody else's
  std::int64_t max_shard_size = 0;
  bool card = true;  // the source's model card is copied too
};

struct Converted {
  std::int64_t files = 0;                      // of weights
  std::int64_t bytes = 0;                      // of all weights
  std::map<std::string, std::string> digests;  // of every file, by its name (base/hash.h); on rank 0
};

// Every rank writes its share of the files, reads each back from the file system and compares it with the source; no
// rank holds more than one file's tensors. Files that an earlier start has written are proven and kept; index and
// configs come last. Throws Error (kBadInput) for a source that cannot be read, for what the format cannot hold (naming
// formats that can), and for an output directory with somebody else's files. Collective; `on_file` is called on each
// rank after each of its files. Throws AgreedError (kStartAgain) between files when a rank is asked to leave.
Converted convert_checkpoint(HostCommunicator& world, const Conversion& conversion,
                             const std::function<void()>& on_file);

}  // namespace roundtable
