// What the model's own bytes are to a run: every tensor that reaches the output is looked at before the first block is
// tuned, and its digest is on record, so that a later start finds a model that was changed
// (model/load/tensor_record.h).
#pragma once

#include "run/run_context.h"

namespace roundtable {

// Fills context.tensors on every rank with the digests that the journal knows, and with those of the model that shared
// boundaries were made from. Collective over the world. Throws AgreedError where the two differ.
void recall_tensors(RunContext& context);

// Writes the digests that the ranks have found since the last call to the journal, and next to shared boundaries, and
// gives them to all ranks. Collective over the world. Throws AgreedError (kNumeric) before that where one of these
// tensors is to be quantized and a format cannot store its scales (export/scale_check.h).
void record_tensors(RunContext& context);

// Reads the tensors of the output that have no digest yet, each rank its share, and records them. Collective over the
// world. Throws AgreedError with the tensor's name and file, (kNumeric) for a value that is not finite and
// (kStartAgain) when a rank is asked to leave.
void check_rest_of_model(RunContext& context);

}  // namespace roundtable
