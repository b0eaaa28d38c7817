// The coordinator's thread, and this rank's work as a worker.
#include "phases/tune/tune.h"

#include <optional>
#include <thread>

#include "base/activity.h"
#include "base/error.h"
#include "phases/tune/coordinator.h"
#include "phases/tune/stage_worker.h"
#include "run/stop.h"

namespace roundtable {
namespace {

// On the coordinator's thread.
[[noreturn]] void end_job(Watchdog& watchdog, std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& known) {
    watchdog.end_all(known.code(), located(known.what()));
  } catch (const std::exception& unknown) {
    watchdog.end_all(ExitCode::kInternal, located(unknown.what()));
  }
}

}  // namespace

void tune(RunContext& context, Watchdog& watchdog) {
  Mailbox mailbox(context.ranks.world);
  std::optional<Coordinator> coordinator;
  std::thread thread;
  if (context.ranks.is_root()) {
    const std::int64_t blocks = context.plan.model.n_blocks();
    context.progress.begin_phase("tune", blocks);
    context.progress.set_groups(context.plan.groups);
    context.progress.set_total_blocks(blocks - context.state->finished_blocks());
    coordinator.emplace(context.plan, context.paths, context.config.run.keep_boundaries, *context.state, mailbox,
                        *context.events, context.progress);
    thread = start_coordinator(*coordinator, [&watchdog](std::exception_ptr error) { end_job(watchdog, error); });
  }
  try {
    tune_stages(context, mailbox);
  } catch (...) {
    if (thread.joinable()) {
      tell_coordinator(mailbox, message::Stop{});
      thread.join();
    }
    throw;
  }
  if (thread.joinable()) thread.join();
  leave_if_asked(context.ranks.world);
  context.progress.end_phase();
}

}  // namespace roundtable
