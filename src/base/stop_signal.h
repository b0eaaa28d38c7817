// Asking a run to leave in time: SIGUSR1 and SIGTERM, and a limit on the run's own time. Process-wide, as signals are.
#pragma once

#include <string>

namespace roundtable {

// From here on the first SIGUSR1 or SIGTERM asks this process to leave at the next safe point. A further one ends it at
// once with ExitCode::kStartAgain; within the first second it counts as the same request, which launchers deliver by
// more than one way. To be called before other threads exist.
void listen_for_stop_signals();

// Asks the same once `seconds` have passed since listen_for_stop_signals(); 0: never.
void leave_after(double seconds);

// What asks this process to leave, "SIGUSR1" or "run.max_time"; empty while nothing does. From any thread.
std::string stop_reason();

}  // namespace roundtable
