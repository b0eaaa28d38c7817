// Why layers stay in 16 bits, in as few lines as say all of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "model/load/parameter.h"

namespace roundtable {

// "all blocks", "block 3", "blocks 0, 4-7", of sorted blocks.
std::string blocks_text(const std::vector<std::int64_t>& blocks, std::int64_t n_blocks);

// The blocks in which a layer stays in 16 bits for one reason, in the order of the layers within a block. Experts for
// which the same is true in the same blocks are one line.
class Reasons {
 public:
  // `linear` by its name below the block's; `place` is the layer's among those of the block.
  void add(const LinearSpec& linear, std::size_t place, const std::string& reason, std::int64_t block);

  // "mlp.down_proj stays in 16 bits: ...", "mlp.experts.*.up_proj (8 experts, blocks 0, 4-7) stays in 16 bits: ..."
  std::vector<std::string> lines(std::int64_t n_blocks) const;

 private:
  struct Entry {
    std::string layer;
    std::string shared_name;  // of all experts
    std::size_t place;
    std::string reason;
    std::vector<std::int64_t> blocks;

    std::tuple<std::string, std::string, std::vector<std::int64_t>> key() const { return {shared_name, reason, blocks}; }
  };
  std::vector<Entry> list_;
  std::map<std::pair<std::string, std::string>, std::size_t> found_;  // places in list_
};

}  // namespace roundtable
