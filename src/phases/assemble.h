// Making the shards a checkpoint: what no block holds, the index, the configs. Then proving it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "plan/plan.h"
#include "phases/tune/block_file.h"

namespace roundtable {

// On rank 0, when every block's shard stands in `directory`: writes the last shards (embeddings, norm, head: as they are), copies the
// tokenizer, the generation config and what else lies beside the model, writes config.json and last the index, so that
// a checkpoint with an index is whole. Returns the last shards' records. Throws Error (kStartAgain) between files when
// this process is asked to leave.
std::vector<ShardRecord> assemble(const Config& config, const Plan& plan, const std::string& directory);

// Every rank hashes its share of the shards on the file system and holds them against the digests from when they were
// written. Collective over `comm`; `digests` (file -> digest) is used on rank 0. A mismatch is an error on all ranks.
void prove_files(HostCommunicator& comm, const std::string& output, const nlohmann::json& digests);

// Bytes of all safetensors files of a model directory.
std::int64_t checkpoint_bytes(const std::string& directory);

}  // namespace roundtable
