// Phase assemble: the files of the blocks become a checkpoint. What no block holds, the configs and the index are
// added.
#pragma once

#include <string>

#include "run/run_context.h"

namespace roundtable {

// On rank 0, when every block's file is in the tuned checkpoint: writes the files of what no block holds (embeddings,
// norm, head: as they are), copies the tokenizer, the generation config and the other files next to the model, writes
// config.json and last the index, so that a checkpoint with an index is complete. Appends the journal's records.
// Collective over the world. Throws AgreedError, (kBadInput) for a folder with other weights in it and for a file of an
// earlier start that is missing and that the model no longer has, and (kStartAgain) between files when rank 0 is asked
// to leave.
void assemble(RunContext& context);

// Refuses (kNumeric) a head that is to be quantized and has a scale that a format cannot store, unless the checkpoint
// is assembled already: the head is the only quantized layer that no group tunes. Collective over the world.
void check_head(const RunContext& context);

// Bytes of all files of a model directory with this ending (".safetensors").
std::int64_t bytes_of_files(const std::string& directory, const std::string& extension);

}  // namespace roundtable
