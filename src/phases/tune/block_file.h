// The safetensors shard of one quantized block: written by the group that tuned it, proven at once, read for replay.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "model/load/block_loader.h"
#include "plan/plan.h"
#include "tune/block_tuner.h"

namespace roundtable {

struct ShardRecord {
  std::string file;   // name in the output directory
  std::string digest;
  std::uint64_t bytes = 0;
};

// Writes block `block` atomically: its quantized layers in the output's layout, and its other tensors as they are.
ShardRecord write_shard(const std::string& output, const Plan& plan, std::int64_t block, const BlockWeights& weights,
                        const TunedBlock& tuned);

// Reads the shard back from the file system and holds integers, scales, zero points and the dequantized weights
// against what was tuned, bit for bit. Throws Error (kMachine) naming the layer on a mismatch.
void prove_shard(const std::string& output, const Plan& plan, std::int64_t block, const TunedBlock& tuned,
                 const DecoderBlock& quantized);

// The quantized layers of a shard, read on rank 0 of `comm` and broadcast. Collective over `comm`.
std::vector<std::optional<QuantizedWeight>> read_shard(const std::string& output, const Plan& plan, std::int64_t block,
                                                       HostCommunicator& comm);

// The reduced gradients of a step, as safetensors: a tensor a layer, and `loss`.
void write_gradients(const std::string& path, const StepGradients& step);

}  // namespace roundtable
