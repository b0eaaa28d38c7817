// Dividing by what the numbers have in common, and comparing layouts by their forecasts.
#include "plan/layout.h"

#include <fmt/format.h>

#include <numeric>
#include <optional>

#include "base/error.h"
#include "plan/forecast.h"

namespace roundtable {

namespace {

// A run that an earlier start has begun keeps to its parts, from which the names of its files follow. To divide always
// saves memory (forecast.cc), so that is what `auto` does.
bool wants_to_divide(const Config& config, const World& world) {
  switch (config.parallel.experts) {
    case Experts::kAuto:
      return world.parts_on_record != 1;
    case Experts::kDivided:
      return true;
    case Experts::kReplicated:
      return false;
  }
  RT_UNREACHABLE("a value of parallel.experts without a meaning");
}

}  // namespace

int choose_shards(std::int64_t wanted, const World& world, std::int64_t units) {
  if (wanted > 0) return static_cast<int>(wanted);
  for (int shards = world.ranks_a_node; shards > 1; --shards) {
    if (world.ranks % shards == 0 && world.ranks_a_node % shards == 0 && units % shards == 0) return shards;
  }
  return 1;
}

std::int64_t experts_to_divide(const Model& model) {
  std::int64_t experts = 0;
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    experts = std::gcd(experts, model.table(block).experts);
  }
  return experts;
}

int choose_expert_parts(const Config& config, const Model& model, int shards, bool stacks_apart, const World& world) {
  const std::int64_t experts = experts_to_divide(model);
  const bool possible = experts > 0 && experts % shards == 0 && obstacle_to_dividing(model, stacks_apart).empty();
  return possible && wants_to_divide(config, world) ? shards : 1;
}

// A stack that stays whole would lie in the files of several ranks (phases/tune/block_file.cc).
std::string obstacle_to_dividing(const Model& model, bool stacks_apart) {
  for (std::int64_t block = 0; block < model.n_blocks(); ++block) {
    const KindTable& table = model.table(block);
    if (table.experts == 0) continue;
    if (!table.undivided.empty()) return fmt::format("the experts of '{}' {}", model.type(), table.undivided);
    for (const LinearSpec& linear : table.linears) {
      if (linear.expert < 0 || !linear.stack || stacks_apart) continue;
      return fmt::format("the experts of '{}' are one tensor ({}), and none of them is quantized", model.type(),
                         linear.stack->name);
    }
  }
  return "";
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
                     bool stacks_apart, const World& world) {
  const std::int64_t strata = config.tuning.batch_size * config.tuning.gradient_accumulate_steps;
  const auto capacity = static_cast<std::int64_t>(config.cluster.device_memory * 1e9);
  const std::int64_t experts = config.parallel.experts == Experts::kDivided ? experts_to_divide(model) : 0;
  std::optional<Forecast> fastest, smallest;  // of those that fit; of all
  for (int shards = 1; shards <= world.ranks; ++shards) {
    if (world.ranks % shards != 0 || sharded_strata(config, strata) % shards != 0) continue;
    if (config.parallel.shards > 0 && shards != config.parallel.shards) continue;
    if (config.parallel.shards == 0 && experts % shards != 0) continue;
    const std::int64_t stages =
        config.tuning.use_quant_input ? count_stages(config, model.n_blocks(), world.ranks / shards) : model.n_blocks();
    const int parts = choose_expert_parts(config, model, shards, stacks_apart, world);
    const Layout layout{world.ranks, world.ranks_a_node, shards, stages, parts};
    const Forecast one = make_forecast(config, model, schemes, layout, 0);
    if (!smallest || one.memory_bytes() < smallest->memory_bytes()) smallest = one;
    if (one.memory_bytes() <= capacity && (!fastest || one.seconds() < fastest->seconds())) fastest = one;
  }
  if (fastest) return fastest->layout;
  if (smallest) return smallest->layout;
  // parallel.shards divides neither the ranks nor the strata.
  return {world.ranks, world.ranks_a_node, static_cast<int>(config.parallel.shards), 1};
}

}  // namespace roundtable
