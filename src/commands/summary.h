// The end of a run, for people.
#pragma once

#include <string>

#include "rundir/records.h"

namespace roundtable {

// "KL of ...: mean 0.01000, 99th percentile ...", on one line.
std::string divergence_text(const Divergence& divergence);

// "w2g64 40 layers, w4g64 80 layers"
std::string layers_text(const MixedSchemes& mixed);

// Prints perplexity, divergence, size, time, peak memory and the checkpoint's place to stdout.
void print_summary(const RunSummary& summary);

}  // namespace roundtable
