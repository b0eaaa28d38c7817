// Phase evaluate: the model before and after, measured on held-out tokens.
#pragma once

#include "run/run_context.h"
#include "rundir/records.h"

namespace roundtable {

// Measures both models on run.eval_tokens (phases/measure.h), or takes from the journal what an earlier start of this run
// has measured on the same tokens. The same on every rank. Collective over the world. Throws as measure().
record::Evaluation evaluate(RunContext& context);

}  // namespace roundtable
