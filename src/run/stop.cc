// Agreeing on whether to leave.
#include "run/stop.h"

#include "base/error.h"
#include "base/stop_signal.h"
#include "comm/agree.h"

namespace roundtable {

void leave_here_if_asked() {
  if (const std::string reason = stop_reason(); !reason.empty()) throw Error(ExitCode::kStartAgain, reason);
}

void leave_if_asked(HostCommunicator& comm) { run_on_all(comm, leave_here_if_asked); }

}  // namespace roundtable
