// The end of a run, for people.
#pragma once

#include "rundir/records.h"

namespace roundtable {

// Prints perplexity, size, time, peak memory and the checkpoint's place to stdout.
void print_summary(const RunSummary& summary);

}  // namespace roundtable
