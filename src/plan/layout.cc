// Comparing layouts by their forecasts.
#include "plan/layout.h"

#include <optional>

#include "plan/forecast.h"

namespace roundtable {

int choose_shards(std::int64_t wanted, const World& world, std::int64_t strata) {
  if (wanted > 0) return static_cast<int>(wanted);
  for (int shards = world.ranks_a_node; shards > 1; --shards) {
    if (world.ranks % shards == 0 && world.ranks_a_node % shards == 0 && strata % shards == 0) return shards;
  }
  return 1;
}

std::vector<Stage> cut_stages(std::int64_t blocks, std::int64_t stages) {
  std::vector<Stage> cut;
  std::int64_t first = 0;
  for (std::int64_t i = 0; i < stages; ++i) {
    const std::int64_t size = blocks / stages + (i < blocks % stages ? 1 : 0);
    cut.push_back({first, first + size});
    first += size;
  }
  return cut;
}

Layout choose_layout(const Config& config, const Model& model, const std::vector<BlockSchemes>& schemes,
                     const World& world) {
  const std::int64_t strata = config.tuning.batch_size * config.tuning.gradient_accumulate_steps;
  const auto capacity = static_cast<std::int64_t>(config.cluster.device_memory * 1e9);
  std::optional<Forecast> fastest, smallest;  // of those that fit; of all
  for (int shards = 1; shards <= world.ranks; ++shards) {
    if (world.ranks % shards != 0 || sharded_strata(config, strata) % shards != 0) continue;
    if (config.parallel.shards > 0 && shards != config.parallel.shards) continue;
    const std::int64_t stages =
        config.tuning.use_quant_input ? count_stages(config, model.n_blocks(), world.ranks / shards) : model.n_blocks();
    const Forecast one = make_forecast(config, model, schemes, {world.ranks, world.ranks_a_node, shards, stages}, 0);
    if (!smallest || one.memory_bytes() < smallest->memory_bytes()) smallest = one;
    if (one.memory_bytes() <= capacity && (!fastest || one.seconds() < fastest->seconds())) fastest = one;
  }
  if (fastest) return fastest->layout;
  if (smallest) return smallest->layout;
  // parallel.shards divides neither the ranks nor the strata.
  return {world.ranks, world.ranks_a_node, static_cast<int>(config.parallel.shards), 1};
}

}  // namespace roundtable
