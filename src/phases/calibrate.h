// Phase calibrate: the boundaries that stages start from, by one pass of the calibration samples through the model. All
// of the model is looked at by then (phases/model_check.h).
#pragma once

#include "run/run_context.h"

namespace roundtable {

// Makes the boundaries that are missing, each written while the blocks after it are computed. Complete ones are used
// again, and the pass goes only as far as the last missing one. Then reads the tensors that neither this pass nor an
// earlier start has read. Collective over the world. Throws AgreedError as check_rest_of_model(), and (kStartAgain)
// between blocks when a rank is asked to leave.
void calibrate(RunContext& context);

}  // namespace roundtable
