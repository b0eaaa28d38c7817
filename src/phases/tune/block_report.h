// What the leading rank of a group tells the coordinator of a block that it has tuned, written and proven.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "phases/tune/block_file.h"
#include "phases/tune/messages.h"
#include "tune/block_tuner.h"
#include "tune/losses/layer_error.h"

namespace roundtable {

struct BlockReport {
  std::int64_t stage = 0;
  std::int64_t block = 0;
  const std::vector<BlockFile>& files;
  const TunedBlock& tuned;
  std::vector<std::string> idle_experts;  // within the block; no token of the tuning steps reached them
  std::optional<FewTokens> few_tokens;
  std::optional<double> exchanged_bytes;  // TunedBlock's, in the mean of the group's ranks; none: experts are not divided
  std::vector<LayerError> errors;
  double seconds = 0;       // of tuning
  double save_seconds = 0;  // of writing, bringing to the disk, reading back and comparing, of all files
};

message::BlockDone to_message(const BlockReport& report);

}  // namespace roundtable
