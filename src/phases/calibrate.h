// Phase calibrate: the boundaries that stages start from, by one pass of the calibration samples through the model.
#pragma once

#include "run/run_context.h"
#include "run/progress.h"
#include "run/resume.h"

namespace roundtable {

// Makes the boundaries that are missing, each written while the blocks after it are computed; those that stand are used
// again, and the pass goes only as far as the last missing one. `state` is rank 0's, null elsewhere. Collective over the
// world. Throws AgreedError (kStartAgain) between blocks when a rank is asked to leave.
void calibrate(Environment& env, RunState* state, Progress& progress);

}  // namespace roundtable
