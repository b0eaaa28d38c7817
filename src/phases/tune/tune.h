// Phase tune: groups of ranks tune the blocks, stage by stage; a thread of rank 0 coordinates them.
#pragma once

#include "comm/watchdog.h"
#include "run/run_context.h"

namespace roundtable {

// Tunes every block that is not finished. Collective over the world. A coordinator that fails ends all ranks through
// `watchdog`, since the workers wait for it. Throws AgreedError (kStartAgain) when a rank is asked to leave.
void tune(RunContext& context, Watchdog& watchdog);

}  // namespace roundtable
