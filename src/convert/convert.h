// Making a checkpoint from a source, file by file: from a quantized one in another format, with the same integers, scales
// and zero points; or from whatever else gives layers (round/).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "convert/source.h"
#include "export/format.h"
#include "graph/model.h"

namespace roundtable {

struct CheckpointJob {
  std::function<std::shared_ptr<const ConversionSource>()> open;  // called once on each rank
  const CheckpointFormat* format = nullptr;
  std::string output;  // directory
  std::string record;  // directory for the journal, which tells our output from somebody else's, and for digests
  std::int64_t max_shard_size = 0;
  bool card = true;  // the source's model card is copied too
  std::function<nlohmann::json()> fingerprint;  // an object of all that the result depends on; called on rank 0
};

struct Converted {
  std::int64_t files = 0;                      // of weights
  std::int64_t bytes = 0;                      // of all weights
  std::int64_t kept = 0;                       // files of an earlier start
  std::map<std::string, std::string> digests;  // of every file, by its name (base/hash.h); on rank 0
};

// Every rank writes its share of the files, reads each back from the file system and compares its digest with that of
// what was written; no rank holds more than one file's tensors. Files that an earlier start has written are proven in
// the same way and kept; index and configs come last. Throws Error (kBadInput) for a source that cannot be read, for
// what the format cannot hold (naming formats that can), and for an output directory with somebody else's files.
// Collective; `on_file` is called on each rank after each of its files. Throws AgreedError
// (kStartAgain) between layers when a rank is asked to leave.
Converted make_checkpoint(HostCommunicator& world, const CheckpointJob& job,
                          const std::function<void()>& on_file);

struct Conversion {
  std::string source;  // a quantized model directory, in a format that holds integers
  const CheckpointFormat* format = nullptr;
  Model model;  // of the source; its graphs may be of any size
  std::string output, record;  // as in CheckpointJob
  std::int64_t max_shard_size = 0;
  bool card = true;
};

// make_checkpoint() of a quantized checkpoint.
Converted convert_checkpoint(HostCommunicator& world, const Conversion& conversion);

}  // namespace roundtable
