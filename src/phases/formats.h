// Phase formats: the output formats other than the one that the groups wrote while they tuned.
#pragma once

#include <vector>

#include "export/format.h"
#include "plan/plan.h"
#include "run/run_context.h"

namespace roundtable {

// The formats of the plan that are made from the tuned checkpoint: all but that one, if it is in its place.
std::vector<const CheckpointFormat*> formats_to_make(const Plan& plan);

// Makes them by conversion, which reads the finished checkpoint again: the same code serves `roundtable convert`. Files
// of an earlier start are proven and kept. Collective over the world. Throws as convert_checkpoint().
void make_formats(const RunContext& context);

}  // namespace roundtable
