// Stopping early: when SIGUSR1, SIGTERM or run.max_time asks for it (base/stop_signal.h), a run ends at the next place
// where everything that is finished is on disk, with ExitCode::kStartAgain.
#pragma once

#include "comm/communicator.h"

namespace roundtable {

// Throws an Error (kStartAgain) whose line is the reason, when this process is asked to leave. For work inside
// run_on_root() or run_on_all(), which give the error to all ranks.
void leave_here_if_asked();

// Throws AgreedError (kStartAgain) on every rank of `comm` when any of them is asked to leave. Collective over `comm`,
// so that its ranks never part ways.
void leave_if_asked(HostCommunicator& comm);

}  // namespace roundtable
