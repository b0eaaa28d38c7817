// The loop over the phases.
#include "phases/phase.h"

#include "base/activity.h"
#include "run/stop.h"

namespace roundtable {
namespace {

// Collective: rank 0 knows.
bool is_done(const Phase& phase, const RunContext& context) {
  const bool done = context.ranks.is_root() && phase.is_done && phase.is_done();
  return context.ranks.world.broadcast_value(done, 0);
}

}  // namespace

void run_phases(const std::vector<Phase>& phases, RunContext& context, PhaseMeter& meter) {
  const auto tell = [&](const Event& event) {
    if (context.events != nullptr) context.events->append(event);
  };
  for (const Phase& phase : phases) {
    enter_phase(phase.name);
    leave_if_asked(context.ranks.world);
    tell(event::PhaseStart{phase.name});
    meter.run(phase.name, [&] {
      if (!is_done(phase, context)) phase.run();
    });
    tell(event::Phase{phase.name, meter.seconds()[phase.name]});
  }
}

}  // namespace roundtable
