// The safetensors file of one quantized block: written by the group that tuned it, proven at once, read for replay.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "graph/block_loader.h"
#include "plan/plan.h"
#include "tune/block_tuner.h"

namespace roundtable {

// What was written.
struct BlockFile {
  std::string name;    // in the checkpoint's directory
  std::string digest;  // of the whole file (base/hash.h)
  std::uint64_t bytes = 0;
};

// Writes block `block` atomically: its quantized layers in the layout of the plan's tuned format, and its other tensors
// as they are. Throws Error (kMachine).
BlockFile write_block_file(const std::string& checkpoint, const Plan& plan, std::int64_t block,
                           const BlockWeights& weights, const TunedBlock& tuned);

// Reads the file back from the file system and compares integers, scales, zero points and the dequantized weights with
// what was tuned, bit for bit. Throws Error (kMachine) naming the layer on a mismatch.
void prove_block_file(const std::string& checkpoint, const Plan& plan, std::int64_t block, const TunedBlock& tuned,
                      const Block& quantized);

// The quantized layers of a file, read on rank 0 of `comm` and broadcast; host memory. Collective over `comm`.
std::vector<std::optional<QuantizedWeight>> read_block_file(const std::string& checkpoint, const Plan& plan,
                                                            std::int64_t block, HostCommunicator& comm);

// The reduced gradients of a step, as safetensors: one tensor per layer, and `loss`.
void write_gradients(const std::string& path, const StepGradients& step);

}  // namespace roundtable
