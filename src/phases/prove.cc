// Digests of the files, spread over the ranks.
#include "phases/prove.h"

#include <string>

#include "base/error.h"
#include "base/hash.h"
#include "comm/agree.h"
#include "run/stop.h"

namespace roundtable {

void prove(const RunContext& context) {
  const HostCommunicator& world = context.ranks.world;
  const auto digests = run_on_root(context.ranks.world, [&] { return context.state->file_digests(); });
  run_on_all(context.ranks.world, [&] {
    int index = 0;
    for (const auto& [file, digest] : digests) {
      if (index++ % world.size() != world.rank()) continue;
      leave_here_if_asked();
      const std::string path = context.paths.tuned + "/" + file;
      if (hash_file(path) == digest) continue;
      throw machine_error(path, "does not hold what was written",
                          "suspect the file system; remove the file and run the same command again");
    }
  });
}

}  // namespace roundtable
