// Which linear layers of a block engines make one layer of.
#pragma once

#include <cstddef>
#include <vector>

#include "model/load/parameter.h"

namespace roundtable {

// Places among the linear layers of a block of those that vLLM and SGLang make one of: q, k and v; gate and up. All
// experts are one layer, and come expert after expert. Only lists of two places or more.
std::vector<std::vector<std::size_t>> fused_places(const std::vector<LinearSpec>& linears);

}  // namespace roundtable
