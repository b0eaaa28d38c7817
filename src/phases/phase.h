// The phases of a run as a list. One loop applies to all of them what every phase needs: it skips what an earlier start
// has finished, leaves between phases when a rank is asked to, measures time and memory, and writes the events.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "run/phase_meter.h"
#include "run/run_context.h"

namespace roundtable {

struct Phase {
  std::string name;
  // On rank 0: whether an earlier start of this run has finished it. Empty: the phase itself finds what is left to do.
  std::function<bool()> is_done;
  // Collective over the world.
  std::function<void()> run;
};

// Runs the phases in order. Collective over the world. Throws AgreedError (kStartAgain) when a rank is asked to leave.
void run_phases(const std::vector<Phase>& phases, RunContext& context, PhaseMeter& meter);

}  // namespace roundtable
