// Chains of operators that one of our kernels computes become one node. A pass is a file: it looks at a node and at
// what made its arguments, and says which fused operator (operators/library.h) gives the same.
#pragma once

#include "graph/format/manifest.h"

namespace roundtable {

// `part` with fused nodes, and without the nodes that nothing takes any more. `dtype` is that of the model. The fused
// graph has no gradients of norm weights, which nobody tunes.
GraphPart fuse(GraphPart part, c10::ScalarType dtype);

}  // namespace roundtable
