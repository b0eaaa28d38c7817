// Phase evaluate: the perplexity of the model before and after, on held-out tokens.
#pragma once

#include "run/run_context.h"
#include "rundir/records.h"

namespace roundtable {

// The two models, in the journal (record::Perplexity).
inline constexpr const char* kFloat = "float";
inline constexpr const char* kQuantized = "quantized";

// Measures both models on run.eval_tokens. What an earlier start of this run has measured on the same tokens is taken
// from the journal. The same on every rank. Collective over the world. Throws as ForwardPass::measure_perplexity().
PerplexityPair evaluate(RunContext& context);

}  // namespace roundtable
