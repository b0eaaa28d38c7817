// Cutting the world by MPI_Comm_split.
#include "comm/rank_grid.h"

#include "base/error.h"

namespace roundtable {

RankGrid::RankGrid(const MpiCommunicator& world, int shards)
    : groups_(world.size() / shards), shards_(shards), group_(world.rank() / shards), shard_(world.rank() % shards) {
  RT_CHECK(shards >= 1 && world.size() % shards == 0);
  group_comm_ = world.split(group_, shard_);
}

int choose_shards(std::int64_t wanted, int world_size, int node_size, std::int64_t strata) {
  if (wanted > 0) {
    if (world_size % wanted != 0) {
      throw bad_input("parallel.shards", fmt::format("{} does not divide the {} ranks of this run", wanted, world_size),
                      "start a multiple of that many ranks, or leave it at 0");
    }
    if (strata % wanted != 0) {
      throw bad_input("parallel.shards",
                      fmt::format("{} does not divide the {} strata (tuning.batch_size * "
                                  "tuning.gradient_accumulate_steps)",
                                  wanted, strata),
                      "choose a divisor of the strata, or leave it at 0");
    }
    return static_cast<int>(wanted);
  }
  for (int shards = node_size; shards > 1; --shards) {
    if (world_size % shards == 0 && node_size % shards == 0 && strata % shards == 0) return shards;
  }
  return 1;
}

}  // namespace roundtable
