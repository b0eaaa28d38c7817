// Requests to stop a run in time: SIGUSR1, SIGTERM, and a limit on the run's own time. Process-wide, like signals.
#pragma once

#include <string>

namespace roundtable {

// After this call the first SIGUSR1 or SIGTERM asks this process to stop at the next safe point. A further one ends it
// at once with ExitCode::kStartAgain, except within the first second: launchers deliver one request in several ways.
// Call it before other threads exist.
void listen_for_stop_signals();

// The same for SIGINT, which Ctrl-C sends. For commands that stop at safe points; others end at once, as is usual.
void listen_for_ctrl_c();

// The line that the first signal prints on stderr at once, long before the safe point; empty: none. Only rank 0 has
// one.
void set_stop_notice(const std::string& line);

// Asks the process to stop once `seconds` have passed since listen_for_stop_signals(); 0: never.
void leave_after(double seconds);

// What asks this process to stop: "SIGUSR1", "SIGTERM", "Ctrl-C" or "run.max_time"; empty while nothing does.
// Thread-safe.
std::string stop_reason();

}  // namespace roundtable
