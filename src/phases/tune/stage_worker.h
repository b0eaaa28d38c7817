// A worker of the tuning phase: every rank is one. The ranks of a group tune together the stages that the group's
// leading rank fetches from the coordinator.
#pragma once

#include "comm/mpi/mailbox.h"
#include "run/run_context.h"

namespace roundtable {

// Works until the coordinator has no stage left, or a rank of the group is asked to leave (then the block in hand is
// given up). Collective over the group.
// Throws Error with the block in its text when tuning, writing or proving fails.
void tune_stages(RunContext& context, Mailbox& mailbox);

}  // namespace roundtable
