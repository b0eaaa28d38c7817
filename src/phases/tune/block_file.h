// The safetensors files of one quantized block, one for each part of its experts: each written by the rank that holds
// the part, proven at once, read for replay. The first has all that is no expert's, too.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "graph/block_loader.h"
#include "plan/plan.h"
#include "rundir/records.h"
#include "tune/block_tuner.h"

namespace roundtable {

// Writes the file of a part of block `block` atomically: quantized layers in the layout of the plan's tuned format, and
// other tensors as they are. `weights` and `tuned` hold at least what belongs into it. Throws Error (kMachine).
BlockFile write_block_file(const std::string& checkpoint, const Plan& plan, std::int64_t block, const ExpertPart& part,
                           const BlockWeights& weights, const TunedBlock& tuned);

// Reads the file back from the file system and compares integers, scales, zero points and the dequantized weights with
// what was tuned, bit for bit. Throws Error (kMachine) naming the layer on a mismatch.
void prove_block_file(const std::string& checkpoint, const Plan& plan, std::int64_t block, const ExpertPart& part,
                      const TunedBlock& tuned, const Block& quantized);

// What write_block_file() has written of a whole block, in the order of the parts, on every rank of `group`; `mine` is
// that of this rank, or nothing. Collective over `group`.
std::vector<BlockFile> gather_block_files(const std::optional<BlockFile>& mine, HostCommunicator& group);

// The quantized layers of a block that this rank holds; host memory. Experts of other parts are left out. What all ranks
// hold is read on rank 0 of `comm` and broadcast; divided experts are read by each rank from its own file. Collective
// over `comm`, whose ranks have the parts in their order.
std::vector<std::optional<QuantizedWeight>> read_block_file(const std::string& checkpoint, const Plan& plan,
                                                            std::int64_t block, HostCommunicator& comm);

// The reduced gradients of a step, as safetensors: one tensor per layer, and `loss`.
void write_gradients(const std::string& path, const StepGradients& step);

}  // namespace roundtable
