// Counting what the config implies.
#include "plan/shape.h"

#include <algorithm>

namespace roundtable {

std::int64_t micro_batch_of(const Config& config, int shards) {
  const std::int64_t width = pass_width_of(config);
  return width > 0 ? width : std::max<std::int64_t>(1, config.tuning.batch_size / shards);
}

// One at a time where the run is to be reproducible: the shape of a product may choose another kernel.
std::int64_t pass_width_of(const Config& config) { return config.run.reproducible ? 1 : config.tuning.micro_batch; }

std::int64_t sharded_strata(const Config& config, std::int64_t strata) {
  return config.run.reproducible ? strata & -strata : strata;
}

std::int64_t count_block_parameters(const Model& model, std::int64_t block) {
  std::int64_t sum = 0;
  for (const LinearSpec& linear : model.linears(block)) sum += linear.out * linear.in;
  return sum;
}

std::int64_t count_stages(const Config& config, std::int64_t blocks, int groups) {
  if (config.parallel.stages > 0) return config.parallel.stages;
  const std::int64_t least = config.cluster.nodes > 0 ? kLeastStage : 1;
  return std::min<std::int64_t>(groups, std::max<std::int64_t>(1, blocks / least));
}

}  // namespace roundtable
