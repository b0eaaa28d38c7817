// The files of the tuned checkpoint, spread over the ranks.
#include "phases/prove.h"

#include <string>
#include <vector>

#include "base/activity.h"
#include "base/error.h"
#include "run/verify.h"

namespace roundtable {

void prove(const RunContext& context) {
  const auto files = context.state == nullptr ? std::vector<FileOnRecord>() : context.state->tuned_files();
  const std::vector<std::string> damaged = damaged_files(context.ranks.world, files);
  if (damaged.empty()) return;
  throw AgreedError(ExitCode::kMachine,
                    machine_error(located(damaged.front()), "does not hold what was written",
                                  "suspect the file system; run the same command again: it makes the file again")
                        .what());
}

}  // namespace roundtable
