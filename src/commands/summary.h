// The end of a run, for people.
#pragma once

#include <string>

#include "rundir/records.h"

namespace roundtable {

// "KL of ...: mean 0.01000, 99th percentile ...", on one line.
std::string divergence_text(const Divergence& divergence);

// Prints perplexity, divergence, size, time, peak memory and the checkpoint's place to stdout.
void print_summary(const RunSummary& summary);

}  // namespace roundtable
