// The world of ranks, cut into groups x shards.
#pragma once

#include <cstdint>
#include <memory>

#include "comm/mpi/communicator.h"

namespace roundtable {

// rank = group * shards + shard: neighbours share a group, so that a group is inside one node.
class RankGrid {
 public:
  // Collective over `world`. `shards` must divide its size.
  RankGrid(const MpiCommunicator& world, int shards);

  int groups() const { return groups_; }
  int shards() const { return shards_; }
  int group() const { return group_; }
  int shard() const { return shard_; }
  bool leads_group() const { return shard_ == 0; }
  // The ranks that tune a block together with this one; rank in it = shard.
  MpiCommunicator& group_comm() { return *group_comm_; }

 private:
  int groups_;
  int shards_;
  int group_;
  int shard_;
  std::unique_ptr<MpiCommunicator> group_comm_;
};

}  // namespace roundtable
