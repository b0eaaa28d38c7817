// Cutting the world by MPI_Comm_split.
#include "comm/rank_grid.h"

#include "base/error.h"

namespace roundtable {

RankGrid::RankGrid(const MpiCommunicator& world, int shards)
    : groups_(world.size() / shards), shards_(shards), group_(world.rank() / shards), shard_(world.rank() % shards) {
  RT_CHECK(shards >= 1 && world.size() % shards == 0);
  group_comm_ = world.split(group_, shard_);
}

}  // namespace roundtable
