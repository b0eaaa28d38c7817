// The pass that lets the ranks of a group divide the experts of a graph: rows of tokens go to the ranks that hold their
// experts before the first product, and come back behind the last.
#pragma once

#include "graph/format/manifest.h"

namespace roundtable {

// `part` with two more kinds of nodes (operators/library.h): fused::to_owners in front of the rt::expert_linear nodes of
// a rt::dispatch, and fused::from_owners where something takes their results that needs the rows in their old places.
// What lies between two products and works row by row (an activation, a gate) is computed by the rank that holds the
// expert. A part without experts is returned as it is. All experts are multiplied by rt::expert_linear with the ends of
// a rt::dispatch, or KindTable::undivided says that they cannot be divided.
GraphPart divide_experts(GraphPart part);

}  // namespace roundtable
