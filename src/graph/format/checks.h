// Whether what a manifest says fits together. Each throws bad input with the place, the problem and the fix.
#pragma once

#include "graph/format/manifest.h"

namespace roundtable {

// Inputs and outputs are those of the part's role; every value is set once and before its use; every input is taken.
void check_values(const GraphPart& part);

// Operators are known, allowed, and have the schema of this LibTorch; arguments and results are what the schema says;
// no node writes into an input. Values are checked already.
void check_operators(const GraphPart& part, const std::map<std::string, std::string>& operators);

// The tensors on disk that make up a parameter lie in it, do not overlap and cover all of it.
void check_tensors(const GraphPart& part);

// Every tensor of `boundary` is given once, before what takes it; a block names the carried tensors of its kind.
void check_flow(const GraphManifest& manifest);

}  // namespace roundtable
