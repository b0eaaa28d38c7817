// Phase assemble: the files of the blocks become a checkpoint. What no block holds, the configs and the index are
// added.
#pragma once

#include <string>

#include "run/run_context.h"

namespace roundtable {

// On rank 0, when every block's file is in the tuned checkpoint: writes the files of what no block holds (embeddings,
// norm, head: as they are), copies the tokenizer, the generation config and the other files next to the model, writes
// config.json and last the index, so that a checkpoint with an index is complete. Appends the journal's records.
// Collective over the world. Throws AgreedError, (kBadInput) for a file of an earlier start that is missing and that
// the model no longer has, and (kStartAgain) between files when rank 0 is asked to leave.
void assemble(RunContext& context);

// Bytes of all safetensors files of a model directory.
std::int64_t checkpoint_bytes(const std::string& directory);

}  // namespace roundtable
